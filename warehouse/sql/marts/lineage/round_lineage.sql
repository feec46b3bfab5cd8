-- one row per round: the policies, settings, labelers, code and commits behind its numbers
-- policy_measured is the one that its hold-out numbers are about. labelers are name@revision of
-- everything that labeled it, code_versions of everything that wrote it. commits maps the key of
-- each commit of the round to its version, which --as-of takes; `roundhouse lineage` goes on to
-- files and rows. A round without a verdict yet has NULL in what its row would say.
with

work as (

    select
        regexp_extract(key, '^round=(\d+)/', 1)::integer as round,
        map_from_entries(list((key, version) order by version)) as commits,
        list(distinct code_version order by code_version) filter (code_version <> '')
            as code_versions,
    from commits
    where regexp_matches(key, '^round=\d+/')
    group by all

),

labeled as (

    select
        round,
        list(distinct labeler || '@' || revision order by labeler || '@' || revision) as labelers,
    from labels
    where round is not null
    group by round

),

measured as (

    select
        round,
        max(policy_revision) as policy_measured,
    from evaluations
    group by round

),

final as (

    select
        coalesce(rounds.round, work.round) as round,
        rounds.status,
        rounds.policy_revision_in,
        rounds.policy_revision_out,
        measured.policy_measured,
        rounds.reference_revision,
        rounds.training_run_id,
        rounds.recipe_sha256,
        rounds.config_sha256,
        rounds.seed,
        labeled.labelers,
        work.code_versions,
        work.commits,
    from work
    full join rounds on work.round = rounds.round
    left join labeled on coalesce(rounds.round, work.round) = labeled.round
    left join measured on coalesce(rounds.round, work.round) = measured.round
    order by 1

)

select * from final
