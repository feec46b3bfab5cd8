-- one row per labeler, criterion and tenth of the score: does .8 mean yes in 8 of 10 cases?
-- Against human verdicts (of several annotators the mean, yes from .5 on). calibration_error is the
-- labeler's expected calibration error over its bins, worst_gap the largest gap of a bin with at
-- least ten completions; both repeat in each of its rows.
with

verdicts as (

    select
        rollout_id,
        criterion,
        (avg(score) >= 0.5)::int as is_yes,
    from gold
    where isfinite(score)
    group by rollout_id, criterion

),

bins as (

    select
        scores.labeler,
        scores.criterion,
        least(floor(scores.score * 10), 9) / 10 as bin_low,
        count(*) as completions,
        avg(scores.score) as mean_score,
        avg(verdicts.is_yes) as yes_rate,
    from completion_scores as scores
    inner join verdicts
        on scores.rollout_id = verdicts.rollout_id
        and scores.criterion = verdicts.criterion
    where isfinite(scores.score)
    group by scores.labeler, scores.criterion, bin_low

),

final as (

    select
        *,
        sum(completions * abs(mean_score - yes_rate)) over same_labeler
            / sum(completions) over same_labeler as calibration_error,
        max(abs(mean_score - yes_rate)) filter (completions >= 10) over same_labeler as worst_gap,
    from bins
    window same_labeler as (partition by labeler, criterion)
    order by labeler, criterion, bin_low

)

select * from final
