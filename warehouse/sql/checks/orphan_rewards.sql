-- one row per reward of a rollout, or from a label, that is not in the warehouse
with

used_labels as (

    select
        rollout_id,
        unnest(label_ids) as label_id,
    from rewards

),

final as (

    select
        rollout_id,
        null as label_id,
    from rewards
    anti join rollouts using (rollout_id)

    union all

    select
        rollout_id,
        label_id,
    from used_labels
    anti join labels using (label_id)

)

select * from final
