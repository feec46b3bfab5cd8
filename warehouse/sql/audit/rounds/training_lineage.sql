-- one row per training run: do its rollouts rest on labels that are there, scored and final?
-- Counts rollouts the run used: without_reward has no reward under the round's recipe; the others
-- rest on at least one label that is missing (dangling), has no score (failed) or was replaced
-- (superseded). All four are 0 in a sound warehouse.
with

used_labels as (

    select
        train_use.training_run_id,
        train_use.round,
        train_use.rollout_id,
        rewards.rollout_id is null as lacks_reward,
        unnest(case when len(rewards.label_ids) > 0 then rewards.label_ids else [null] end)
            as label_id,
    from train_use
    left join rounds on train_use.round = rounds.round
    left join rewards
        on train_use.rollout_id = rewards.rollout_id
        and rounds.recipe_sha256 = rewards.recipe_sha256
    where train_use.is_used

),

final as (

    select
        used_labels.training_run_id,
        used_labels.round,
        count(distinct used_labels.rollout_id) as rollouts_used,
        count(distinct used_labels.rollout_id) filter (used_labels.lacks_reward)
            as without_reward,
        count(distinct used_labels.rollout_id) filter (
            used_labels.label_id is not null and labels.label_id is null
        ) as dangling,
        count(distinct used_labels.rollout_id) filter (
            labels.status not in ('ok', 'ok_repaired')
        ) as failed,
        count(distinct used_labels.rollout_id) filter (not labels.is_final) as superseded,
    from used_labels
    left join labels on used_labels.label_id = labels.label_id
    group by used_labels.training_run_id, used_labels.round
    order by used_labels.round, used_labels.training_run_id

)

select * from final
