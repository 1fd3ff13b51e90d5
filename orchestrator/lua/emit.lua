-- Add one event to a job's stream; a job that Redis does not know gets none.
-- ARGV: type, level, step, data (JSON)
-- → {"ok"} | {"unknown"}
if not known() then return reply('unknown') end
emit(ARGV[1], ARGV[3], ARGV[4], ARGV[2])
return reply('ok')
