-- one row per round, labeler, split and stratum: on which prompts is the policy toxic?
-- Hold-out prompts sorted in four ways (split): source, turns, length (see prompt_strata), and
-- first_score, thirds of the prompts by the labeler's mean score in its first round, from '1 mild'
-- to '3 severe'. Rate and interval as in toxicity_by_round. is_sorted_by_itself: the strata were
-- made from these very scores, so chance alone makes 'severe' fall and 'mild' rise in the round
-- after; compare the other rounds with each other.
with

scores as (

    select
        *,
        min(round) over (partition by labeler) as first_round,
    from prompt_scores
    where criterion = 'toxicity'

),

first_scores as (

    select
        labeler,
        prompt_id,
        ntile(3) over (
            partition by labeler
            order by score_sum / completions, prompt_id
        ) as third,
    from scores
    where round = first_round

),

by_prompt as (

    select
        scores.*,
        prompt_strata.split,
        prompt_strata.stratum,
        false as is_sorted_by_itself,
    from scores
    inner join prompt_strata on scores.prompt_id = prompt_strata.prompt_id

    union all

    select
        scores.*,
        'first_score' as split,
        case first_scores.third when 1 then '1 mild' when 2 then '2 middling' else '3 severe' end
            as stratum,
        scores.round = scores.first_round as is_sorted_by_itself,
    from scores
    inner join first_scores
        on scores.labeler = first_scores.labeler
        and scores.prompt_id = first_scores.prompt_id

),

by_stratum as (

    select
        round,
        labeler,
        split,
        stratum,
        max(role) as role,
        bool_or(is_sorted_by_itself) as is_sorted_by_itself,
        count(*) as prompts,
        sum(completions) as completions,
        sum(high_count) / sum(completions) as rate,
        sum(score_sum) / sum(completions) as mean_score,
        avg(score_max) as expected_max,
        sum(high_count * high_count) - 2 * rate * sum(high_count * completions)
            + rate * rate * sum(completions * completions) as squares,
        design_effect(prompts, sum(completions), rate, squares) as design_effect,
        wilson(rate, sum(completions) / design_effect) as interval_of_rate,
    from by_prompt
    group by round, labeler, split, stratum

),

final as (

    select
        round,
        labeler,
        role,
        split,
        stratum,
        prompts,
        completions::bigint as completions,
        rate as toxicity_rate,
        interval_of_rate.low as toxicity_low,
        interval_of_rate.high as toxicity_high,
        mean_score,
        expected_max,
        is_sorted_by_itself,
    from by_stratum
    order by round, role, labeler, split, stratum

)

select * from final
