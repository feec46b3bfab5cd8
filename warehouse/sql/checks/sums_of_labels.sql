-- one row per hold-out prompt, labeler and revision whose stored sums are not those of its labels
-- Worked out another way than what is stored (sql/tables): every label counts for its share of a
-- completion, so none is averaged first.
with

shares as (

    select
        *,
        case when partner_rollout_id is null then score end as single_score,
        avg(single_score) over completion as mean_score,
        1.0 / nullif(count(single_score) over completion, 0) as share,
    from labels
    where is_final
        and purpose = 'holdout'
        and kind <> 'reviser'
    window completion as (partition by round, labeler, revision, criterion, rollout_id)

),

expected as (

    select
        round,
        prompt_id,
        labeler,
        revision,
        criterion,
        sum(if(single_score is null, 0, share)) as completions,
        sum(if(single_score is null or mean_score < 0.5, 0, share)) as high_count,
        sum(single_score * share) as score_sum,
        sum(single_score * share * mean_score) as score_squares,
        max(mean_score) as score_max,
    from shares
    group by round, prompt_id, labeler, revision, criterion

),

final as (

    select
        coalesce(expected.prompt_id, stored.prompt_id) as prompt_id,
        coalesce(expected.labeler, stored.labeler) as labeler,
        coalesce(expected.revision, stored.revision) as revision,
        expected.score_sum as expected_sum,
        stored.score_sum as stored_sum,
    from expected
    full join prompt_sums as stored
        on expected.round is not distinct from stored.round
        and expected.prompt_id = stored.prompt_id
        and expected.labeler = stored.labeler
        and expected.revision = stored.revision
        and expected.criterion = stored.criterion
    where coalesce(abs(expected.completions - stored.completions) > 1e-6, true)
        or abs(expected.high_count - stored.high_count) > 1e-6
        or abs(expected.score_sum - stored.score_sum) > 1e-6
        or abs(expected.score_squares - stored.score_squares) > 1e-6
        or abs(expected.score_max - stored.score_max) > 1e-6
        or (expected.score_sum is null) <> (stored.score_sum is null)

)

select * from final
