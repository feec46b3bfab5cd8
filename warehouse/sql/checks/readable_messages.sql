-- one row per prompt whose messages are not a JSON list of turns
select
    prompt_id,
    left(messages, 200) as messages,
from prompts
where not json_valid(messages)
    or json_type(messages) <> 'ARRAY'
