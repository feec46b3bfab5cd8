-- one row per round, hold-out prompt, labeler, revision and criterion: sums of its labels' scores
-- What publish stores in the table of this name, out of the labels of one or several revisions. A
-- completion that is scored several times (samples, principles) counts once, by its mean; pairwise
-- and failed labels count as none, but the revision stands here all the same: it may be the one that
-- counts.
with

completions as (

    select
        round,
        prompt_id,
        labeler,
        revision,
        criterion,
        rollout_id,
        max(role) as role,
        avg(score) filter (partner_rollout_id is null) as score,
        max(labeled_at) as last_labeled_at,
    from labels
    where is_final
        and purpose = 'holdout'
        and kind <> 'reviser'
    group by round, prompt_id, labeler, revision, criterion, rollout_id

),

final as (

    select
        round,
        prompt_id,
        labeler,
        revision,
        criterion,
        max(role) as role,
        count(score) as completions,
        count(*) filter (score >= 0.5) as high_count,
        sum(score) as score_sum,
        sum(score * score) as score_squares,
        max(score) as score_max,
        max(last_labeled_at) as last_labeled_at,
    from completions
    group by round, prompt_id, labeler, revision, criterion

)

select * from final
