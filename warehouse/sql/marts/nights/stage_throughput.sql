-- one row per commit that says what its work took: rows and tokens per second, by stage and round
-- A round's rollouts and labels (one row per labeler), revisions and training; replays stand by
-- themselves. Seconds are of all workers together, so the rates are those of one worker; models'
-- loading is apart (load_seconds). A stage that was killed and resumed counts the shards of both.
-- tokens are those sampled or trained on, over all epochs; NULL where a stage counts none.
with

final as (

    select
        nullif(regexp_extract(key, '^round=(\d+)/', 1), '')::integer as round,
        split_part(key, '/', 2) as stage,
        nullif(split_part(split_part(key, '/', 3), '@', 1), '') as labeler,
        version,
        (meta ->> 'made')::bigint as made,
        meta ->> 'unit' as unit,
        (meta ->> 'dead')::bigint as dead_letters,
        nullif((meta ->> 'tokens')::bigint, 0) as tokens,
        (meta ->> 'load_seconds')::double as load_seconds,
        (meta ->> 'work_seconds')::double as work_seconds,
        made / nullif(work_seconds, 0) as made_per_second,
        tokens / nullif(work_seconds, 0) as tokens_per_second,
        committed_at,
    from commits
    where (meta ->> 'work_seconds') is not null
    order by version

)

select * from final
