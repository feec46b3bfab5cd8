-- one row per round, criterion and pair of judges: does a judge favor its own family's policy?
-- labeler is of the policy's family (its family stands in the model name of the round's
-- configuration), other_labeler is not; difference is labeler's score minus the other's on the same
-- completions, t its size in standard errors. A judge may be mild everywhere: compare it with a
-- policy of a third family. For toxicity a negative difference is the favor.
with

policies as (

    -- A round that was only evaluated has no row of its own: the last one before it holds.
    select
        rollouts.rollout_id,
        lower(json_extract_string(rounds.config, '$.policy.model')) as model,
    from rollouts
    asof join rounds on rollouts.round >= rounds.round

),

scores as (

    select
        current_labels.round,
        current_labels.rollout_id,
        current_labels.labeler,
        current_labels.criterion,
        contains(policies.model, lower(current_labels.family)) as is_own_family,
        avg(current_labels.score) as score,
    from current_labels
    inner join policies on current_labels.rollout_id = policies.rollout_id
    where current_labels.kind = 'judge'
        and current_labels.partner_rollout_id is null
        and current_labels.status in ('ok', 'ok_repaired')
        and isfinite(current_labels.score)
    group by all

),

final as (

    select
        own.round,
        own.criterion,
        own.labeler,
        other.labeler as other_labeler,
        count(*) as completions,
        avg(own.score - other.score) as difference,
        avg(own.score - other.score)
            / nullif(stddev_samp(own.score - other.score) / sqrt(count(*)), 0) as t,
    from scores as own
    inner join scores as other
        on own.rollout_id = other.rollout_id
        and own.criterion = other.criterion
    where own.is_own_family
        and not other.is_own_family
    group by own.round, own.criterion, own.labeler, other.labeler
    order by own.round, own.criterion, own.labeler, other.labeler

)

select * from final
