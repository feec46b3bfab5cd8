-- one row per policy that a round has to do with: what trained it, and what became of it
-- policy_revision_in and training_run_id are those of the training that made it, NULL for a base
-- policy. is_kept: nights went on from it. rows_used counts the rollouts that trained it,
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

candidates as (

    -- What night r trained is what round r + 1 measured; kept or not.
    select distinct
        rounds.round as trained_round,
        rounds.training_run_id,
        rounds.policy_revision_in,
        coalesce(evaluations.policy_revision, rounds.policy_revision_out) as policy_revision,
        rounds.policy_revision_out,
    from rounds
    left join evaluations on rounds.round = evaluations.round - 1
    where rounds.training_run_id is not null

),

trained as (

    -- Two nights can make the same policy only from the same rows: the first one did.
    select *
    from candidates
    where policy_revision <> policy_revision_in
    qualify row_number() over (partition by policy_revision order by trained_round) = 1

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
    select policy_revision from trained
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
        trained.trained_round,
        trained.training_run_id,
        trained.policy_revision_in,
        trained.policy_revision is null or trained.policy_revision = trained.policy_revision_out
            as is_kept,
        used.rows_used,
        sampled.sampled_rounds,
        measured.measured_rounds,
    from revisions
    left join trained on revisions.policy_revision = trained.policy_revision
    left join used on trained.training_run_id = used.training_run_id
    left join sampled on revisions.policy_revision = sampled.policy_revision
    left join measured on revisions.policy_revision = measured.policy_revision
    order by trained.trained_round nulls first, revisions.policy_revision

)

select * from final
