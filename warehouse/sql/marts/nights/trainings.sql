-- one row per training of a night: from which policy, on which version of the rows, to which policy
-- trained_revision is what came of it; is_kept whether nights go on from it (NULL before the
-- verdict). read_version is the version of the warehouse whose rows it read, version that of its
-- own commit; both are what --as-of takes. The rows stand in training_rows.
with

runs as (

    select
        regexp_extract(key, '^round=(\d+)/training', 1)::integer as round,
        meta ->> 'training_run_id' as training_run_id,
        meta ->> 'policy_revision_in' as policy_revision_in,
        meta ->> 'policy_revision' as trained_revision,
        meta ->> 'reference_revision' as reference_revision,
        meta ->> 'recipe_sha256' as recipe_sha256,
        (meta ->> 'kl_coefficient')::double as kl_coefficient,
        (meta ->> 'seed')::bigint as seed,
        (meta ->> 'warehouse_version')::bigint as read_version,
        version,
        committed_at,
        code_version,
    from commits
    where regexp_matches(key, '^round=\d+/training')
        and (meta ->> 'training_run_id') is not null

),

final as (

    -- Older trainings say less in their commit; the round's row says it, once there is a verdict.
    select
        runs.round,
        runs.training_run_id,
        coalesce(runs.policy_revision_in, rounds.policy_revision_in) as policy_revision_in,
        runs.trained_revision,
        rounds.policy_revision_out = runs.trained_revision as is_kept,
        coalesce(runs.reference_revision, rounds.reference_revision) as reference_revision,
        coalesce(runs.recipe_sha256, rounds.recipe_sha256) as recipe_sha256,
        coalesce(runs.kl_coefficient, rounds.kl_coefficient_in) as kl_coefficient,
        coalesce(runs.seed, rounds.seed) as seed,
        rounds.config_sha256,
        runs.code_version,
        runs.read_version,
        runs.version,
        runs.committed_at,
    from runs
    left join rounds on runs.training_run_id = rounds.training_run_id
    order by runs.version

)

select * from final
