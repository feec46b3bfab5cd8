-- one row per rewarded rollout, under the one recipe its round goes by
-- That is the recipe the round trained on (rounds.recipe_sha256), else the last by name. Imported
-- rollouts have no round: there every recipe counts, and a rollout has the one of its source.
with

recipes as (

    select
        rewards.round,
        rewards.recipe_sha256,
    from rewards
    left join rounds on rewards.round = rounds.round
    group by rewards.round, rewards.recipe, rewards.recipe_sha256, rounds.recipe_sha256
    qualify rewards.round is null or row_number() over (
        partition by rewards.round
        order by
            rewards.recipe_sha256 is not distinct from rounds.recipe_sha256 desc,
            rewards.recipe desc,
            rewards.recipe_sha256 desc
    ) = 1

),

final as (

    select rewards.*
    from rewards
    semi join recipes
        on rewards.round is not distinct from recipes.round
        and rewards.recipe_sha256 = recipes.recipe_sha256

)

select * from final
