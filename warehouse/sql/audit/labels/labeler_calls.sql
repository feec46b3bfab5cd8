-- one row per round, labeler and backend: what was wasted, and how slow is the slowest call?
-- wasted_usd was paid for attempts that gave no final score (retries, failures); NULL without
-- prices. Latencies are quantiles over all attempts. round_costs has the tokens and unit prices.
with

attempts as (

    select
        *,
        is_final and status in ('ok', 'ok_repaired') as is_usable,
    from labels
    -- The mean of a pair's two orders is no call.
    where partner_rollout_id is null or pair_order is not null

),

final as (

    select
        round,
        labeler,
        backend,
        count(*) as calls,
        count(*) filter (is_usable) as usable,
        sum(cost_usd) as cost_usd,
        sum(cost_usd * (not is_usable)::int) as wasted_usd,
        wasted_usd / nullif(sum(cost_usd), 0) as wasted_share,
        quantile_cont(latency_ms, 0.5) filter (isfinite(latency_ms)) as latency_p50_ms,
        quantile_cont(latency_ms, 0.95) filter (isfinite(latency_ms)) as latency_p95_ms,
        quantile_cont(latency_ms, 0.99) filter (isfinite(latency_ms)) as latency_p99_ms,
    from attempts
    group by round, labeler, backend
    order by round, labeler, backend

)

select * from final
