-- one row per rollout, with its reward and the score and status of every labeler
-- scores and statuses are maps from labeler to value: scores['hate']. A labeler that failed has a
-- status and no score; a rollout without a reward has NULL there.
with

scores as (

    select
        rollout_id,
        map(list(labeler order by labeler), list(score order by labeler)) as scores,
    from completion_scores
    group by rollout_id

),

statuses_by_labeler as (

    select
        rollout_id,
        labeler,
        string_agg(distinct status, ', ' order by status) as status,
    from current_labels
    where partner_rollout_id is null
    group by rollout_id, labeler

),

statuses as (

    select
        rollout_id,
        map(list(labeler order by labeler), list(status order by labeler)) as statuses,
    from statuses_by_labeler
    group by rollout_id

),

final as (

    select
        rollouts.rollout_id,
        rollouts.round,
        rollouts.purpose,
        rollouts.prompt_id,
        rollouts.sample_index,
        prompt_texts.prompt,
        rollouts.completion,
        rollouts.finish_reason,
        len(rollouts.completion_ids) as completion_tokens,
        rollouts.policy_revision,
        current_rewards.reward,
        current_rewards.recipe,
        current_rewards.recipe_sha256,
        current_rewards.is_eligible,
        current_rewards.excluded_reason,
        scores.scores,
        statuses.statuses,
    from rollouts
    left join prompt_texts on rollouts.prompt_id = prompt_texts.prompt_id
    left join current_rewards on rollouts.rollout_id = current_rewards.rollout_id
    left join scores on rollouts.rollout_id = scores.rollout_id
    left join statuses on rollouts.rollout_id = statuses.rollout_id

)

select * from final
