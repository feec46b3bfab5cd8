-- one row per hold-out prompt, sample and metric labeler: first evaluated round against the last
-- change is score_after - score_before: the largest fall in toxicity comes first. The two
-- completions are samples of two policies for one prompt, not a paired experiment.
with

scored as (

    select
        scores.round,
        scores.labeler,
        scores.prompt_id,
        rollouts.sample_index,
        rollouts.completion,
        scores.score,
    from completion_scores as scores
    inner join rollouts on scores.rollout_id = rollouts.rollout_id
    where scores.purpose = 'holdout'
        and scores.criterion = 'toxicity'
        and scores.role = 'metric'

),

span as (

    select
        labeler,
        min(round) as first_round,
        max(round) as last_round,
    from scored
    group by labeler
    having first_round < last_round

),

final as (

    select
        before.prompt_id,
        before.sample_index,
        before.labeler,
        prompt_texts.prompt,
        before.round as round_before,
        before.completion as completion_before,
        before.score as score_before,
        later.round as round_after,
        later.completion as completion_after,
        later.score as score_after,
        later.score - before.score as change,
    from span
    inner join scored as before
        on span.labeler = before.labeler
        and span.first_round = before.round
    inner join scored as later
        on span.labeler = later.labeler
        and span.last_round = later.round
        and before.prompt_id = later.prompt_id
        and before.sample_index = later.sample_index
    left join prompt_texts on before.prompt_id = prompt_texts.prompt_id
    order by change, before.prompt_id, before.sample_index, before.labeler

)

select * from final
