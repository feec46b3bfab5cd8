-- one row per round, purpose, labeler and criterion: is there a signal to learn from?
-- Shares of scores stuck at the floor (up to .001) or the ceiling (from .999 on), and of judge
-- answers with less than .9 of their probability on the labels. dead_group_share, the same for all
-- labelers of a round and purpose: prompts whose completions all got one reward teach nothing.
with

scores as (

    select *
    from current_labels
    where partner_rollout_id is null
        and status in ('ok', 'ok_repaired')
        and isfinite(score)

),

groups as (

    select
        round,
        purpose,
        prompt_id,
        max(reward) - min(reward) < 1e-6 as is_dead,
    from current_rewards
    where isfinite(reward)
    group by round, purpose, prompt_id
    having count(*) > 1

),

dead_groups as (

    select
        round,
        purpose,
        avg(is_dead::int) as dead_group_share,
    from groups
    group by round, purpose

),

final as (

    select
        scores.round,
        scores.purpose,
        scores.labeler,
        scores.criterion,
        count(*) as labels,
        count(distinct round(scores.score, 6)) as distinct_scores,
        avg((scores.score <= 0.001)::int) as floor_share,
        avg((scores.score >= 0.999)::int) as ceiling_share,
        avg((scores.label_mass < 0.9)::int) as low_label_mass_share,
        any_value(dead_groups.dead_group_share) as dead_group_share,
    from scores
    left join dead_groups
        on scores.round is not distinct from dead_groups.round
        and scores.purpose = dead_groups.purpose
    group by scores.round, scores.purpose, scores.labeler, scores.criterion
    order by scores.round, scores.purpose, scores.labeler, scores.criterion

)

select * from final
