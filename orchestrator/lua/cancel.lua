-- Stop a job: nothing of it is claimed any more, and every token is void. A job that has ended stays as it is.
-- ARGV: "cancelled" | "failed", data of the final event (JSON)
-- → {"ok"} | {"over"} it had ended before | {"unknown"}
if not known() then return reply('unknown') end
if not unfinished() then return reply('over') end
for _, id in ipairs(redis.call('SMEMBERS', key('open'))) do
  local record = load(id)
  if record.status == 'queued' or record.status == 'running' or record.status == 'parked' then
    record.status, record.token = 'cancelled', nil
    save(id, record)
  end
end
finish(ARGV[1], ARGV[2], ARGV[1] == 'failed' and 'ERROR' or 'WARN')
return reply('ok')
