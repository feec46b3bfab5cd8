-- one row per round, labeler and template whose failures may exceed 2 %: which judge stumbles?
-- Of first attempts; a failure is any status without a score, ok_repaired is none. Reported where
-- the upper end of Wilson's 95 % interval lies above .02, so some 200 calls without a failure are
-- needed to stay out: read failure_rate beside attempts.
with

first_attempts as (

    select *
    from labels
    -- The mean of a pair's two orders is no call.
    where partner_rollout_id is null or pair_order is not null
    qualify row_number() over (
        partition by label_key
        order by attempt, label_id
    ) = 1

),

final as (

    select
        round,
        labeler,
        left(template_sha256, 8) as template,
        count(*) as attempts,
        count(*) filter (status = 'ok_repaired') as repaired,
        count(*) filter (status not in ('ok', 'ok_repaired')) as failures,
        failures / attempts as failure_rate,
        wilson(failure_rate, attempts).high as failure_high,
    from first_attempts
    group by round, labeler, left(template_sha256, 8)
    having failure_high > 0.02
    order by failure_rate desc, round, labeler, template

)

select * from final
