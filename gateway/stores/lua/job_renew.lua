-- Keep the jobs of a runner; gives the ids of those that are its own no more.
-- ARGV  1 runner, then for each job its id and 1 if an engine is at work on it, else 0.
local lost = {}
for i = 2, #ARGV, 2 do
  local job = load(ARGV[i])
  if job then -- one that Redis has lost may run to its end
    if job.runner == ARGV[1] and not FINAL[job.state] then
      redis.call('XCLAIM', stream_of(job.class, job.tenant), GROUP, ARGV[1], 0, job.entry, 'JUSTID')
      if ARGV[i + 1] == '1' then redis.call('HSET', job_key(job.id), 'state', 'running') end
    else
      lost[#lost + 1] = job.id
    end
  end
end
return lost
