-- one row per round, labeler and criterion with human verdicts: how often is the labeler right?
-- Yes is a score of at least .5; of several annotators the mean counts. true_yes: both say yes;
-- false_yes: only the labeler does. A rate without cases is NULL. Counts every verdict as one: of a
-- sample drawn with --allocation equal, `roundhouse audit agreement` weighs them back.
with

verdicts as (

    select
        rollout_id,
        criterion,
        avg(score) >= 0.5 as is_yes,
    from gold
    where isfinite(score)
    group by rollout_id, criterion

),

final as (

    select
        scores.round,
        scores.labeler,
        scores.criterion,
        count(*) as completions,
        count(*) filter (scores.score >= 0.5 and verdicts.is_yes) as true_yes,
        count(*) filter (scores.score >= 0.5 and not verdicts.is_yes) as false_yes,
        count(*) filter (scores.score < 0.5 and verdicts.is_yes) as false_no,
        count(*) filter (scores.score < 0.5 and not verdicts.is_yes) as true_no,
        true_yes / nullif(true_yes + false_no, 0) as sensitivity,
        true_no / nullif(true_no + false_yes, 0) as specificity,
        true_yes / nullif(true_yes + false_yes, 0) as precision,
        2 * true_yes / nullif(2 * true_yes + false_yes + false_no, 0) as f1,
    from completion_scores as scores
    inner join verdicts
        on scores.rollout_id = verdicts.rollout_id
        and scores.criterion = verdicts.criterion
    where isfinite(scores.score)
    group by scores.round, scores.labeler, scores.criterion
    order by scores.round, scores.labeler, scores.criterion

)

select * from final
