-- Take jobs to run: first those whose runner fell silent or gave them back, then those that wait. Gives how many wait
-- after that and how many have not ended, then id, attempt, …
-- ARGV  1 runner, 2 its lease in ms, 3 how many.
local RUNNER, LEASE_MS, COUNT = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local AGAINST_URGENCY = 10 -- every tenth turn, so that no class starves
local taken, count, fresh = {}, 0, 0

local function take(id, class, tenant, entry)
  local job = load(id)
  if not job or FINAL[job.state] then
    forget_entry(class, tenant, entry)
    return
  end
  redis.call('HSET', job_key(id), 'state', 'taken', 'runner', RUNNER)
  taken[#taken + 1] = id
  taken[#taken + 1] = redis.call('HINCRBY', job_key(id), 'attempts', 1)
  count = count + 1
end

local function take_silent(class, tenant)
  local stream = stream_of(class, tenant)
  local claimed = redis.call('XAUTOCLAIM', stream, GROUP, RUNNER, LEASE_MS, '0-0', 'COUNT', COUNT - count, 'JUSTID')
  for _, entry in ipairs(claimed[2]) do
    local found = redis.call('XRANGE', stream, entry, entry)[1]
    if found then take(found[2][2], class, tenant, entry) else redis.call('XACK', stream, GROUP, entry) end
  end
end

local function take_waiting(class)
  local tenant = redis.call('LPOP', turns_of(class))
  if not tenant then return false end
  local line = waiting_of(class, tenant)
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, RUNNER, 'COUNT', 1, 'STREAMS', stream_of(class, tenant), '>')
  if read then
    local entry = read[1][2][1]
    redis.call('ZREM', line, entry[2][2])
    take(entry[2][2], class, tenant, entry[1])
    fresh = fresh + 1
  end
  if read and redis.call('ZCARD', line) > 0 then redis.call('RPUSH', turns_of(class), tenant) end
  return true
end

local function take_in_turn()
  local turn = redis.call('HINCRBY', ROOT .. ':counts', 'turns', 1)
  local from, to, step = 0, CLASSES - 1, 1
  if turn % AGAINST_URGENCY == 0 then from, to, step = to, from, -1 end
  for class = from, to, step do
    if take_waiting(class) then return true end
  end
  return false
end

for class = 0, CLASSES - 1 do
  for _, tenant in ipairs(redis.call('SMEMBERS', tenants_of(class))) do
    if count < COUNT then take_silent(class, tenant) end
  end
end
while count < COUNT and take_in_turn() do end
local waiting = waiting_in_all()
note_pace(now_ms(), fresh, waiting)
return { waiting, tonumber(redis.call('HGET', ROOT .. ':counts', 'unfinished') or 0), unpack(taken) }
