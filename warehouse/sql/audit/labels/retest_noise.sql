-- one row per labeler, revision and criterion asked repeatedly: how far does it repeat itself?
-- Groups are completions with several samples under one rendered prompt and model revision. A
-- difference of two scores below twice mean_sd is noise. exact_agreement: groups of equal scores.
-- An answer that was given again from the cache repeats itself by nature, so it is left out.
with

repeats as (

    select
        labeler,
        revision,
        criterion,
        stddev_samp(score) as sd,
        max(score) - min(score) as spread,
    from labels
    where is_final
        and status in ('ok', 'ok_repaired')
        and isfinite(score)
        and partner_rollout_id is null
        and is_cached is not true
    group by
        labeler, revision, criterion, principle, rollout_id, rendered_prompt_sha256, model_revision
    having count(distinct sample_index) > 1

),

final as (

    select
        labeler,
        revision,
        criterion,
        count(*) as groups,
        avg(sd) as mean_sd,
        max(spread) as worst_spread,
        avg((spread = 0)::int) as exact_agreement,
    from repeats
    group by labeler, revision, criterion
    order by mean_sd desc, labeler, revision, criterion

)

select * from final
