-- one row per reward term or label of the rollout $rollout: why did it get this reward?
-- A label that no term used (role metric or shadow, a failed attempt, an older revision) has NULL in
-- weight, value, mean, sd and contribution. A term whose label is gone has NULL in the label's
-- columns; so has a penalty of the recipe, which is a term of its own (length, truncation, missing
-- end). contribution = weight * (value - mean) / sd; the reward is their clipped sum.
with

rollout as (

    select *
    from rollouts
    where rollout_id = $rollout

),

rollout_rewards as (

    select *
    from rewards
    where rollout_id = $rollout

),

rollout_labels as (

    select *
    from labels
    where rollout_id = $rollout or partner_rollout_id = $rollout

),

texts as (

    select
        template_sha256,
        any_value(name) as name,
        any_value(text) as text,
    from templates
    group by template_sha256

),

terms as (

    select
        recipe_sha256,
        unnest(terms, recursive := true),
    from rollout_rewards

),

unused_labels as (

    -- One row under every recipe, or one row without a recipe where the rollout has no reward.
    select
        rollout_rewards.recipe_sha256,
        rollout_labels.labeler,
        rollout_labels.label_id,
    from rollout_labels
    left join rollout_rewards on true
    anti join terms
        on rollout_labels.label_id = terms.label_id
        and rollout_rewards.recipe_sha256 = terms.recipe_sha256

),

entries as (

    select * from terms
    union all by name
    select * from unused_labels

),

final as (

    select
        rollout.rollout_id,
        rollout.round,
        rollout.purpose,
        prompt_texts.prompt,
        rollout.completion,
        rollout_rewards.reward,
        rollout_rewards.is_eligible,
        rollout_rewards.excluded_reason,
        rollout_rewards.recipe,
        recipe_texts.text as recipe_text,
        coalesce(entries.labeler, rollout_labels.labeler) as labeler,
        rollout_labels.role,
        entries.weight,
        entries.value,
        entries.mean,
        entries.sd,
        entries.contribution,
        rollout_labels.label_id,
        rollout_labels.attempt,
        rollout_labels.is_final,
        rollout_labels.revision,
        rollout_labels.model,
        rollout_labels.model_revision,
        rollout_labels.status,
        rollout_labels.status_detail,
        rollout_labels.score,
        rollout_labels.score_raw,
        rollout_labels.label_mass,
        rollout_labels.entropy,
        rollout_labels.raw_output,
        rollout_labels.rationale,
        rollout_labels.principle,
        coalesce(template_texts.name, rollout_labels.template) as template,
        template_texts.text as template_text,
        rollout_labels.rendered_prompt,
    from rollout
    left join prompt_texts on rollout.prompt_id = prompt_texts.prompt_id
    left join entries on true
    left join rollout_labels on entries.label_id = rollout_labels.label_id
    left join rollout_rewards
        on entries.recipe_sha256 = rollout_rewards.recipe_sha256
        or entries.recipe_sha256 is null
    left join texts as recipe_texts
        on rollout_rewards.recipe_sha256 = recipe_texts.template_sha256
    left join texts as template_texts
        on rollout_labels.template_sha256 = template_texts.template_sha256
    order by rollout_rewards.recipe, abs(entries.contribution) desc nulls last, labeler,
        rollout_labels.attempt

)

select * from final
