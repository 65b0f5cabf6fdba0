-- The line of one pool, its tickets and their owners: what every verb of RedisQueue builds on (it is put before each).
-- The policy is core/scheduling.py's; the names are the same. Time is Redis's own, so gateways need no common clock.
--
-- KEYS  1 pool     hash        slots, entered and granted (counts so far), floor:<class>
--       2 tickets  hash        ticket id -> the ticket, packed; in line while it has a number, else in flight
--       3 waiting  sorted set  class NUL tenant NUL number NUL ticket id; all scores 0, so a tenant's are in order
--       4 owned    sorted set  owner NUL ticket id; all scores 0
--       5 owners   sorted set  owner -> when its lease ends, in ms
--       6 epochs   hash        owner -> the epoch of its last claim
--       7…         sorted set  per class, the round: number of a backlogged tenant's first ticket, tenant -> counter
--       …          sorted set  per class, the counters of tenants that were served out and are ahead of the floor
-- The list <pool>:wake:<owner> holds "epoch id id …" for tickets that another owner's call granted. Its name cannot be
-- declared, for who is woken is decided here; it has the same hash tag, which is what Redis Cluster needs.
--
-- ARGV  1 owner, 2 its epoch, 3 its lease in ms, then what the verb says.

local POOL, TICKETS, WAITING, OWNED, OWNERS, EPOCHS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local CLASSES = (#KEYS - 6) / 2
local OWNER, EPOCH, LEASE_MS = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local NUL, AFTER_NUL = '\0', '\1'
local DIGITS = 16

local mine, refused = {}, {} -- tickets of the caller that this call granted, or found granted; or refused

local function round_of(class) return KEYS[7 + class] end
local function idle_of(class) return KEYS[7 + CLASSES + class] end
local function wake_list(owner) return POOL .. ':wake:' .. owner end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function starting_with(set, prefix, ...)
  return redis.call('ZRANGEBYLEX', set, '[' .. prefix .. NUL, '(' .. prefix .. AFTER_NUL, ...)
end

local function load(id)
  local packed = redis.call('HGET', TICKETS, id)
  return packed and cmsgpack.unpack(packed)
end

local function save(id, ticket)
  redis.call('HSET', TICKETS, id, cmsgpack.pack(ticket))
  redis.call('ZADD', OWNED, 0, ticket.owner .. NUL .. id)
end

local function slots() return tonumber(redis.call('HGET', POOL, 'slots') or 0) end
local function waiting() return redis.call('ZCARD', WAITING) end
local function in_flight() return redis.call('HLEN', TICKETS) - waiting() end

-- The number and the id of a tenant's first ticket, or nothing.
local function first_of(class, tenant)
  local prefix = class .. NUL .. tenant
  local found = starting_with(WAITING, prefix, 'LIMIT', 0, 1)[1]
  if not found then return nil end
  local rest = string.sub(found, #prefix + 2)
  return string.sub(rest, 1, DIGITS), string.sub(rest, DIGITS + 2)
end

local function place(id, ticket)
  return table.concat({ticket.class, ticket.tenant, ticket.number, id}, NUL)
end

-- Put a ticket behind its tenant's others; lift the tenant if it returns.
local function join(id, ticket)
  local round = round_of(ticket.class)
  ticket.number = string.format('%0' .. DIGITS .. 'd', redis.call('HINCRBY', POOL, 'entered', 1))
  if not first_of(ticket.class, ticket.tenant) then
    local smallest = redis.call('ZRANGE', round, 0, 0, 'WITHSCORES')[2]
      or redis.call('HGET', POOL, 'floor:' .. ticket.class) or 0
    local own = redis.call('ZSCORE', idle_of(ticket.class), ticket.tenant) or 0
    redis.call('ZADD', round, math.max(tonumber(smallest), tonumber(own)), ticket.number .. ticket.tenant)
  end
  redis.call('ZADD', WAITING, 0, place(id, ticket))
  save(id, ticket)
end

-- Take a ticket out of line and charge its tenant. Only a tenant's first ticket stands in the round.
local function quit(id, ticket, charge)
  local round, standing = round_of(ticket.class), ticket.number .. ticket.tenant
  redis.call('ZREM', WAITING, place(id, ticket))
  ticket.number = nil
  local counter = redis.call('ZSCORE', round, standing)
  if not counter then return end
  redis.call('ZREM', round, standing)
  local number = first_of(ticket.class, ticket.tenant)
  if number then
    redis.call('ZADD', round, counter + charge, number .. ticket.tenant)
  else
    redis.call('ZADD', idle_of(ticket.class), counter + charge, ticket.tenant)
  end
end

-- The id of the ticket whose turn it is, or nothing. Counters that lifting would overrule anyway are forgotten.
local function next_id()
  for class = 0, CLASSES - 1 do
    local first = redis.call('ZRANGE', round_of(class), 0, 0, 'WITHSCORES')
    if first[1] then
      redis.call('HSET', POOL, 'floor:' .. class, first[2])
      redis.call('ZREMRANGEBYSCORE', idle_of(class), '-inf', first[2])
      local _, id = first_of(class, string.sub(first[1], DIGITS + 1))
      return id
    end
  end
end

-- Give free slots to the tickets whose turn it is, and wake their owners. Called after every change.
local function grant()
  local free, others = slots() - in_flight(), {}
  while free > 0 do
    local id = next_id()
    if not id then break end
    local ticket = load(id)
    quit(id, ticket, ticket.charge)
    save(id, ticket)
    redis.call('HINCRBY', POOL, 'granted', 1)
    local granted = mine
    if ticket.owner ~= OWNER then
      others[ticket.owner] = others[ticket.owner] or {redis.call('HGET', EPOCHS, ticket.owner) or 0}
      granted = others[ticket.owner]
    end
    table.insert(granted, id)
    free = free - 1
  end
  for owner, words in pairs(others) do
    redis.call('RPUSH', wake_list(owner), table.concat(words, ' '))
  end
end

local function drop(id)
  local ticket = load(id)
  if not ticket then return end
  if ticket.number then quit(id, ticket, 0) end
  redis.call('HDEL', TICKETS, id)
  redis.call('ZREM', OWNED, ticket.owner .. NUL .. id)
end

local function ids_of(owner)
  local ids = starting_with(OWNED, owner)
  for i, entry in ipairs(ids) do ids[i] = string.sub(entry, #owner + 2) end
  return ids
end

local function disown(owner)
  for _, id in ipairs(ids_of(owner)) do drop(id) end
  redis.call('ZREM', OWNERS, owner)
  redis.call('HDEL', EPOCHS, owner)
  redis.call('DEL', wake_list(owner))
end

-- Renew the caller's lease; take from owners whose lease has ended all that they held.
local function renew_and_reap()
  local now = now_ms()
  redis.call('ZADD', OWNERS, now + LEASE_MS, OWNER)
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', OWNERS, '-inf', now)) do disown(owner) end
end

local function tell_slots(word)
  if word ~= '' then redis.call('HSET', POOL, 'slots', word) end
end

-- Read the ticket whose five fields begin at ARGV[i]: its id, itself, and how many may wait before it is refused
-- (-1 if it had a place before, so that no bound applies).
local function read_ticket(i)
  local ticket = {owner = OWNER, class = tonumber(ARGV[i + 1]), tenant = ARGV[i + 2], charge = tonumber(ARGV[i + 3])}
  return ARGV[i], ticket, tonumber(ARGV[i + 4])
end

-- Put the ticket whose fields begin at ARGV[i] in line, or refuse it. One that is known is only looked up.
local function enter(i)
  local id, ticket, waiting_max = read_ticket(i)
  local held = load(id)
  if held then
    if not held.number then table.insert(mine, id) end
  elseif waiting_max >= 0 and waiting() >= waiting_max and in_flight() >= slots() then
    table.insert(refused, id)
  else
    join(id, ticket)
  end
end

-- The epoch as the store knows it differs if the owner was reaped, or the store emptied, or the call is a ghost: one
-- that its owner gave up long ago. Only a claim with a newer epoch helps.
local function known_epoch() return tonumber(redis.call('HGET', EPOCHS, OWNER) or 0) end
local function is_stale() return known_epoch() ~= EPOCH end
local function stale() return {'stale', known_epoch()} end

local function answer()
  local granted = tonumber(redis.call('HGET', POOL, 'granted') or 0)
  return {'ok', mine, refused, in_flight(), waiting(), slots(), granted, redis.call('ZCARD', OWNERS)}
end
