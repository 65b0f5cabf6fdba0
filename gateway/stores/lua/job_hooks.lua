-- Take messages that are due; each becomes due again unless it is settled. Gives the view, the URL and the attempt of each.
-- ARGV  1 how many, 2 for how long they are taken, in ms.
local due, now = {}, now_ms()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ROOT .. ':hooks', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local job = load(id)
  if job then
    redis.call('ZADD', ROOT .. ':hooks', now + ARGV[2], id)
    due[#due + 1] = { view(job), job.webhook, redis.call('HINCRBY', job_key(id), 'told', 1) }
  else
    redis.call('ZREM', ROOT .. ':hooks', id)
  end
end
return due
