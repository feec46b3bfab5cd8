-- one row per trained round and promotion guard: what its policy had to hold, and what it measured
-- Limits are those of the night's configuration, numbers those of the evaluation that followed, on
-- hold-out prompts. An end of the interval (bound low or high) stands in comparison to the limit,
-- so that noise alone does not fail; a number that is missing does. What came of it is
-- rounds.status: a person may overrule. Guards that were off have no row.
with

guards as (

    select *
    from (
        values
            ('promotion.max_toxicity_increase', 'toxicity_change_from_replaced', 'low', '<='),
            ('promotion.require_improvement', 'toxicity_change_from_replaced', 'high', '<'),
            ('promotion.min_length_ratio', 'length_ratio', 'high', '>='),
            ('promotion.max_length_ratio', 'length_ratio', 'low', '<='),
            ('promotion.min_distinct2_ratio', 'distinct_2_ratio', 'value', '>='),
            ('promotion.max_refusal_increase', 'refusal_change', 'low', '<='),
            ('promotion.max_truncation_increase', 'truncated_change', 'low', '<='),
            ('training.kl_budget', 'kl_to_reference', 'value', '<=')
    ) as known (guard, metric, bound, comparison)

),

limits as (

    select
        rounds.round,
        guards.*,
        json_extract_string(rounds.config, '/' || replace(guards.guard, '.', '/')) as written,
        case written
            when 'true' then 0.0
            when 'false' then null
            else written::double
        end as threshold,
    from rounds
    cross join guards
    where rounds.training_run_id is not null

),

final as (

    select
        limits.round,
        limits.guard,
        limits.metric,
        evaluations.value,
        evaluations.low,
        evaluations.high,
        limits.bound,
        limits.comparison,
        limits.threshold,
        case limits.bound
            when 'low' then evaluations.low
            when 'high' then evaluations.high
            else evaluations.value
        end as held,
        coalesce(
            isfinite(held) and case limits.comparison
                when '<=' then held <= limits.threshold
                when '<' then held < limits.threshold
                else held >= limits.threshold
            end,
            false
        ) as is_passed,
    from limits
    left join evaluations
        on evaluations.round = limits.round + 1
        and evaluations.metric = limits.metric
    where limits.threshold is not null
    order by limits.round, limits.guard

)

select * from final
