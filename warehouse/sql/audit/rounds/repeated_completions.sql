-- one row per round, purpose and completion given to three prompts or more: has the policy stalled?
-- mean_reward is what the one text earned, z how far that lies above its round and purpose in
-- standard deviations of a single reward: a text that fits every prompt and pays is a collapse.
with

repeated as (

    select
        round,
        purpose,
        completion_sha256,
        any_value(left(completion, 50)) as completion_start,
        count(*) as rollouts,
        count(distinct prompt_id) as prompts,
    from rollouts
    -- Imported texts are of no round: no policy of this warehouse wrote them.
    where round is not null
    group by round, purpose, completion_sha256
    having prompts >= 3

),

earned as (

    select
        rollouts.round,
        rollouts.purpose,
        rollouts.completion_sha256,
        avg(current_rewards.reward::double) as mean_reward,
    from rollouts
    inner join current_rewards on rollouts.rollout_id = current_rewards.rollout_id
    where isfinite(current_rewards.reward)
    group by rollouts.round, rollouts.purpose, rollouts.completion_sha256

),

scales as (

    select
        round,
        purpose,
        avg(reward::double) as mean,
        stddev_samp(reward::double) as sd,
    from current_rewards
    where isfinite(reward)
    group by round, purpose

),

final as (

    select
        repeated.round,
        repeated.purpose,
        repeated.completion_sha256,
        repeated.prompts,
        repeated.rollouts,
        earned.mean_reward,
        (earned.mean_reward - scales.mean) / nullif(scales.sd, 0) as z,
        repeated.completion_start,
    from repeated
    left join earned
        on repeated.round is not distinct from earned.round
        and repeated.purpose = earned.purpose
        and repeated.completion_sha256 = earned.completion_sha256
    left join scales
        on repeated.round is not distinct from scales.round
        and repeated.purpose = scales.purpose
    order by repeated.prompts desc, repeated.round, repeated.purpose, repeated.completion_sha256

)

select * from final
