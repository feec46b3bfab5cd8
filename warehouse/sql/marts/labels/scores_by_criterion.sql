-- one row per round, criterion and labeler: how its scores of the hold-out completions lie
-- Toxicity, helpfulness, refusal and whatever else a labeler rates, 1 the most of it. The interval
-- of mean_score is at 95 % and allows for several samples of one prompt (NULL for a single prompt);
-- sd_score is of the completions, high_share the share scored at least .5. Who rates the policy that
-- a night trained and did not keep stands here too, under the round that measured it.
with

by_labeler as (

    select
        round,
        criterion,
        labeler,
        max(role) as role,
        count(*) as prompts,
        sum(completions) as completions,
        sum(score_sum) / sum(completions) as mean_score,
        sum(high_count) / sum(completions) as high_share,
        sum(score_squares) / sum(completions) - mean_score * mean_score as variance,
        -- sum over prompts of (score_sum - mean_score * completions)^2, multiplied out
        sum(score_sum * score_sum) - 2 * mean_score * sum(score_sum * completions)
            + mean_score * mean_score * sum(completions * completions) as squares,
        -- Variance of a ratio estimator over clusters (Cochran 1977, 2.42). Rounding may leave a
        -- variance of 0 just below it.
        case
            when prompts > 1
                then sqrt(greatest(0.0, prompts / (prompts - 1) * squares)) / sum(completions)
        end as standard_error,
    from prompt_scores
    group by round, criterion, labeler

),

final as (

    select
        round,
        criterion,
        labeler,
        role,
        prompts,
        completions::bigint as completions,
        mean_score,
        -- greatest and least pass over a NULL, which would make it an end of the scale.
        case
            when standard_error is not null
                then greatest(0.0, mean_score - 1.959963984540054 * standard_error)
        end as mean_low,
        case
            when standard_error is not null
                then least(1.0, mean_score + 1.959963984540054 * standard_error)
        end as mean_high,
        sqrt(greatest(0.0, variance)) as sd_score,
        high_share,
    from by_labeler
    order by round, criterion, role, labeler

)

select * from final
