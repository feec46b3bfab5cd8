"""SQL for people: what may run, sessions, answers."""
