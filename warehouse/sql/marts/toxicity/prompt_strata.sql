-- one row per sampled hold-out prompt and way to sort prompts: the stratum it belongs to
-- source: where it came from. turns: its human turns, 1, 2 or '3 and more'. length: thirds of the
-- prompts by the characters of the last human turn, from '1 short' to '3 long'. Strata by toxicity
-- depend on who measures it: see toxicity_by_stratum.
with

sampled as (

    select distinct prompt_id
    from rollouts
    where purpose = 'holdout'

),

turns as (

    select
        prompts.prompt_id,
        prompts.source,
        list_filter(
            from_json(prompts.messages, '[{"role": "VARCHAR", "content": "VARCHAR"}]'),
            lambda turn: turn.role not in ('assistant', 'system')
        ) as human_turns,
    from prompts
    semi join sampled on prompts.prompt_id = sampled.prompt_id

),

measured as (

    select
        prompt_id,
        source,
        len(human_turns) as turn_count,
        ntile(3) over (order by length(human_turns[-1].content), prompt_id) as third,
    from turns

),

final as (

    select
        prompt_id,
        unnest([
            {'split': 'source', 'stratum': source},
            {
                'split': 'turns',
                'stratum': case
                    when turn_count >= 3 then '3 and more' else turn_count::varchar
                end
            },
            {
                'split': 'length',
                'stratum': case third
                    when 1 then '1 short' when 2 then '2 medium' else '3 long'
                end
            },
        ], recursive := true),
    from measured

)

select * from final
