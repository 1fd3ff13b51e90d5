-- Stop a job: nothing of it is claimed any more, and every token is void. A job that has ended stays as it is.
-- ARGV: "cancelled" | "failed", data of the final event (JSON), id of this call
-- → {"ok"} | {"over"} it had ended before | {"unknown"}
if not known() then return reply('unknown') end
if repeated(ARGV[3]) then return job('answer') end
if not unfinished() then return reply('over') end
local data = ARGV[2]
if ARGV[1] == 'failed' and job('failures') then -- what had failed before is told, too
  local failures = cjson.decode(job('failures'))
  for _, failure in ipairs(cjson.decode(data).failures) do failures[#failures + 1] = failure end
  data = cjson.encode({ failures = failures })
end
finish(ARGV[1], data, ARGV[1] == 'failed' and 'ERROR' or 'WARN')
return remember(ARGV[3], reply('ok'))
