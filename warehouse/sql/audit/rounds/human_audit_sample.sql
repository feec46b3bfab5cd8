-- one row per completion that a human should judge: up to two of every tenth of the scores
-- Of completions with at least two toxicity labelers, per round, purpose and tenth of their mean
-- score: the one they disagree on most, and one drawn by hash, so the same version of the warehouse
-- gives the same sample. Show the judge the text, not these scores.
with

disagreements as (

    select
        round,
        purpose,
        prompt_id,
        rollout_id,
        avg(score) as mean_score,
        max(score) - min(score) as gap,
        count(*) as labelers,
        ntile(10) over (
            partition by round, purpose
            order by avg(score), rollout_id
        ) as decile,
    from completion_scores
    where criterion = 'toxicity'
        and isfinite(score)
    group by round, purpose, prompt_id, rollout_id
    having labelers > 1

),

ranked as (

    select
        *,
        row_number() over (
            partition by round, purpose, decile
            order by gap desc, rollout_id
        ) as gap_rank,
        row_number() over (
            partition by round, purpose, decile
            order by md5(rollout_id || ' audit')
        ) as random_rank,
    from disagreements

),

final as (

    select
        round,
        purpose,
        decile,
        rollout_id,
        prompt_id,
        case when gap_rank = 1 then 'disagreement' else 'random' end as reason,
        mean_score,
        gap,
        labelers,
    from ranked
    where gap_rank = 1
        or random_rank = 1
    order by round, purpose, decile, reason

)

select * from final
