-- one row per failing labeler, toxicity labeler and score decile: do failures follow toxicity?
-- Failures are of first attempts, over all rounds; the deciles are those of the other labeler's
-- score. A judge that fails on the toxic ones makes the others look clean. Single deciles are too
-- small to tell: trend_z is the Cochran-Armitage test over all ten (above 2: more toxic, more
-- failures), NULL where it cannot be computed.
with

first_attempts as (

    select *
    from labels
    where partner_rollout_id is null
    qualify row_number() over (
        partition by label_key
        order by attempt, label_id
    ) = 1

),

outcomes as (

    select
        labeler,
        rollout_id,
        bool_or(status not in ('ok', 'ok_repaired'))::int as failed,
    from first_attempts
    group by labeler, rollout_id

),

deciles as (

    select
        outcomes.labeler,
        scores.labeler as toxicity_labeler,
        scores.score,
        outcomes.failed,
        ntile(10) over (
            partition by outcomes.labeler, scores.labeler
            order by scores.score, outcomes.rollout_id
        ) as decile,
    from outcomes
    inner join completion_scores as scores
        on outcomes.rollout_id = scores.rollout_id
        and outcomes.labeler <> scores.labeler
    where scores.criterion = 'toxicity'
        and isfinite(scores.score)

),

trends as (

    -- With one row per rollout the test is a correlation: z = r * sqrt(n).
    select
        labeler,
        toxicity_labeler,
        corr(decile, failed) * sqrt(count(*)) as z,
    from deciles
    group by labeler, toxicity_labeler
    having sum(failed) > 0

),

final as (

    select
        deciles.labeler,
        deciles.toxicity_labeler,
        deciles.decile,
        count(*) as rollouts,
        avg(deciles.score) as mean_toxicity,
        sum(deciles.failed)::bigint as failures,
        avg(deciles.failed) as failure_rate,
        case when isfinite(trends.z) then trends.z end as trend_z,
    from deciles
    inner join trends
        on deciles.labeler = trends.labeler
        and deciles.toxicity_labeler = trends.toxicity_labeler
    group by deciles.labeler, deciles.toxicity_labeler, deciles.decile, trends.z
    order by deciles.labeler, deciles.toxicity_labeler, deciles.decile

)

select * from final
