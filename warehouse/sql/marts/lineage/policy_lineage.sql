-- one row per policy that a round has to do with: what trained it, and what became of it
-- policy_revision_in and training_run_id are those of the training that made it, NULL for a base
-- policy. is_kept: nights go on from it (NULL before the verdict). rows_used counts the rollouts that trained it,
-- sampled_rounds are the rounds whose train completions it wrote, measured_rounds those that
-- evaluated it.
with

measured as (

    select
        policy_revision,
        list(distinct round order by round) as measured_rounds,
    from evaluations
    group by policy_revision

),

trained as (

    -- Two trainings can make the same policy only from the same rows: the first one did.
    select *
    from trainings
    where trained_revision is distinct from policy_revision_in
    qualify row_number() over (partition by trained_revision order by version) = 1

),

used as (

    select
        training_run_id,
        count(*) filter (is_used) as rows_used,
    from train_use
    group by training_run_id

),

sampled as (

    select
        policy_revision,
        list(distinct round order by round) as sampled_rounds,
    from rollouts
    where purpose = 'train'
        and round is not null
    group by policy_revision

),

revisions as (

    select policy_revision from measured
    union
    select trained_revision as policy_revision from trained
    union
    select policy_revision from sampled
    union
    select policy_revision_in as policy_revision from rounds
    union
    select reference_revision as policy_revision from rounds

),

final as (

    select
        revisions.policy_revision,
        trained.round as trained_round,
        trained.training_run_id,
        trained.policy_revision_in,
        case when trained.trained_revision is null then true else trained.is_kept end as is_kept,
        used.rows_used,
        sampled.sampled_rounds,
        measured.measured_rounds,
    from revisions
    left join trained on revisions.policy_revision = trained.trained_revision
    left join used on trained.training_run_id = used.training_run_id
    left join sampled on revisions.policy_revision = sampled.policy_revision
    left join measured on revisions.policy_revision = measured.policy_revision
    order by trained.version nulls first, revisions.policy_revision

)

select * from final
