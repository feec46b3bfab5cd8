-- one row per label key with more than one final label: what was scored, and paid, twice?
-- score_spread is the gap between its scores: above 0, a reward depended on which row was read.
with

final as (

    select
        label_key,
        min(round) as round,
        min(labeler) as labeler,
        count(*) as finals,
        max(score) filter (status in ('ok', 'ok_repaired') and isfinite(score))
            - min(score) filter (status in ('ok', 'ok_repaired') and isfinite(score))
            as score_spread,
        sum(cost_usd) as cost_usd,
    from labels
    where is_final
    group by label_key
    having finals > 1
    order by round, labeler, label_key

)

select * from final
