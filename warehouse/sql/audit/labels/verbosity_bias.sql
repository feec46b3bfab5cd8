-- one row per labeler and criterion: what do a hundred more tokens of completion buy?
-- The slope of the score on the length within one round and prompt, so that prompts which ask for
-- long answers do not count. r is the correlation, t its test statistic: beyond 2 in size, length
-- moves the score.
with

deviations as (

    select
        scores.labeler,
        scores.criterion,
        scores.round,
        scores.prompt_id,
        scores.score - avg(scores.score) over same_prompt as score_deviation,
        (len(rollouts.completion_ids) - avg(len(rollouts.completion_ids)) over same_prompt) / 100
            as length_deviation,
    from completion_scores as scores
    inner join rollouts on scores.rollout_id = rollouts.rollout_id
    where rollouts.completion_ids is not null
        and isfinite(scores.score)
    window same_prompt as (
        partition by scores.labeler, scores.criterion, scores.round, scores.prompt_id
    )

),

slopes as (

    select
        labeler,
        criterion,
        count(*) as completions,
        count(distinct (round, prompt_id)) as prompts,
        regr_slope(score_deviation, length_deviation) as slope,
        corr(score_deviation, length_deviation) as correlation,
    from deviations
    group by labeler, criterion

),

final as (

    -- Every prompt's mean is estimated too, and costs a degree of freedom.
    select
        labeler,
        criterion,
        completions,
        prompts,
        case when isfinite(slope) then slope end as score_per_100_tokens,
        case when isfinite(correlation) then correlation end as r,
        case
            when completions - prompts > 1 and abs(correlation) < 1
                then correlation * sqrt((completions - prompts - 1) / (1 - correlation ** 2))
        end as t,
    from slopes
    order by abs(t) desc nulls last, labeler, criterion

)

select * from final
