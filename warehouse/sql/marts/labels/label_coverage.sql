-- one row per round, purpose, labeler and status: how many rollouts ended there
-- share is of the round's rollouts of that purpose; 'unlabeled' counts the rollouts that a labeler
-- at work there has no final label for. Pairwise labels are about two rollouts and stand elsewhere
-- (position_bias), and so do imported completions, which belong to no round (imported_scores).
with

rollout_counts as (

    select
        round,
        purpose,
        count(*) as rollout_count,
    from rollouts
    group by round, purpose

),

statuses as (

    select
        round,
        purpose,
        labeler,
        status,
        count(distinct rollout_id) as rows,
    from current_labels
    where partner_rollout_id is null
    group by round, purpose, labeler, status

),

labeled as (

    select
        round,
        purpose,
        labeler,
        count(distinct rollout_id) as labeled_count,
    from current_labels
    where partner_rollout_id is null
    group by round, purpose, labeler

),

unlabeled as (

    select
        labeled.round,
        labeled.purpose,
        labeled.labeler,
        'unlabeled' as status,
        rollout_counts.rollout_count - labeled.labeled_count as rows,
    from labeled
    inner join rollout_counts
        on labeled.round is not distinct from rollout_counts.round
        and labeled.purpose = rollout_counts.purpose
    where rollout_counts.rollout_count > labeled.labeled_count

),

counts as (

    select * from statuses
    union all
    select * from unlabeled

),

final as (

    select
        counts.round,
        counts.purpose,
        counts.labeler,
        counts.status,
        counts.rows,
        counts.rows / rollout_counts.rollout_count as share,
    from counts
    inner join rollout_counts
        on counts.round is not distinct from rollout_counts.round
        and counts.purpose = rollout_counts.purpose
    where counts.round is not null
    order by counts.round, counts.purpose, counts.labeler, counts.rows desc, counts.status

)

select * from final
