-- Add events to a job's stream; a job that Redis does not know gets none.
-- ARGV: four for each event: type, level, step, data (JSON)
-- → {"ok"} | {"unknown"}
if not known() then return reply('unknown') end
for i = 1, #ARGV, 4 do emit(ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 1]) end
return reply('ok')
