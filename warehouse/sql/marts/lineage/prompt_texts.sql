-- one row per prompt, with its last human turn
-- The turn the completion replies to; earlier turns stay in prompts.messages.
with

turns as (

    select
        prompt_id,
        from_json(messages, '[{"role": "VARCHAR", "content": "VARCHAR"}]') as messages,
    from prompts

),

final as (

    select
        prompt_id,
        list_filter(messages, lambda turn: turn.role not in ('assistant', 'system'))[-1].content
            as prompt,
    from turns

)

select * from final
