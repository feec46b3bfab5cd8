-- one row per round and labeler: what its labels cost in tokens and US dollars
-- Every attempt counts, also failed and superseded ones; a labeler without token counts or prices
-- has NULL. usd_per_1k_ok is the cost of a thousand usable labels. Of the attempts, from_cache were
-- answered by what an earlier call paid for, at no cost; their tokens are in the sums all the same.
with

final as (

    select
        round,
        labeler,
        count(*) as attempts,
        count(*) filter (is_final and score is not null) as ok_labels,
        sum(input_tokens)::bigint as input_tokens,
        sum(cached_input_tokens)::bigint as cached_input_tokens,
        sum(output_tokens)::bigint as output_tokens,
        coalesce(bool_or(is_usage_estimated), false) as has_estimates,
        sum(cost_usd) as cost_usd,
        1000 * sum(cost_usd) / nullif(ok_labels, 0) as usd_per_1k_ok,
        count(*) filter (is_cached) as from_cache,
    from labels
    where round is not null
    group by round, labeler
    order by round, labeler

)

select * from final
