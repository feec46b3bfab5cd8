-- one row per round and KL metric: how far the policy is from the reference
-- Nats per sequence or per token, as unit says; estimated on fresh hold-out samples.
with

final as (

    select
        round,
        policy_revision,
        metric,
        value,
        low,
        high,
        unit,
        method,
        prompts,
        completions,
    from evaluations
    where metric like '%kl%'
    order by round, metric

)

select * from final
