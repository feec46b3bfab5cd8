-- one row per score of a completion that talks to its judge: what did the talking buy?
-- z is the score in standard deviations of its round, purpose, labeler and criterion: the most
-- unusual comes first. The match is by wording, so an innocent 'score: 3' stands here too.
with

pattern as (

    select
        '(?i)(ignore (all |any |the )?(previous|above|prior)'
        || '|system:|model_identifier|\[\[[AB]\]\]|"?score"?\s*[:=]\s*\d'
        || '|as an? (impartial )?judge|<\|im_start\|>|\bverdict\b)' as pattern,

),

found as (

    select
        rollouts.rollout_id,
        regexp_extract(rollouts.completion, pattern.pattern) as found,
        left(rollouts.completion, 70) as completion_start,
    from rollouts
    cross join pattern
    where found <> ''

),

standardized as (

    select
        *,
        (score - avg(score) over same_instrument)
            / nullif(stddev_samp(score) over same_instrument, 0) as z,
    from completion_scores
    where isfinite(score)
    window same_instrument as (partition by round, purpose, labeler, criterion)

),

final as (

    select
        standardized.round,
        standardized.purpose,
        standardized.labeler,
        standardized.criterion,
        standardized.rollout_id,
        standardized.score,
        standardized.z,
        found.found,
        found.completion_start,
    from standardized
    inner join found on standardized.rollout_id = found.rollout_id
    order by abs(standardized.z) desc nulls last, standardized.rollout_id, standardized.labeler

)

select * from final
