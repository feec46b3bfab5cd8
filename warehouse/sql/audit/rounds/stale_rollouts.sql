-- one row per round, purpose and policy revision out of place: who wrote these rollouts?
-- Train rollouts of a round come from the policy that the round began with (expected_revision);
-- hold-out rollouts may come from a candidate, but from one policy only. Where several policies
-- wrote for one round and purpose and none is known to be right, each has its row.
with

revisions as (

    select
        rollouts.round,
        rollouts.purpose,
        rollouts.policy_revision,
        case when rollouts.purpose = 'train' then rounds.policy_revision_in end
            as expected_revision,
        count(*) as rollouts,
    from rollouts
    left join rounds on rollouts.round = rounds.round
    where rollouts.round is not null
    group by all

),

final as (

    select *
    from revisions
    qualify policy_revision <> expected_revision
        or (
            expected_revision is null
            and count(*) over (partition by round, purpose) > 1
        )
    order by round, purpose, policy_revision

)

select * from final
