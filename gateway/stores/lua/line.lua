-- The order of tickets: core/scheduling.py's Line over Redis. Reserves are its percentages, told by every caller.

local ENTRY = '^(%d)%z([^%z]*)%z([^%z]*)%z(%d+)%z(%d+)%z([^%z]*)%z(%d+)%z(%d+)%z(%d+)$'
local PACKED = '^(.)([^%z]*)%z(.*)$'

local function pack_entry(ticket)
  return table.concat({ticket.class, ticket.tenant, ticket.user, ticket.deadline, ticket.number, ticket.id, ticket.work,
    ticket.weight, ticket.charge}, NUL)
end

local function unpack_entry(entry)
  local ticket = {}
  ticket.class, ticket.tenant, ticket.user, ticket.deadline, ticket.number, ticket.id, ticket.work, ticket.weight,
    ticket.charge = string.match(entry, ENTRY)
  return ticket
end

local function load(id)
  local packed = redis.call('HGET', TICKETS, id)
  if not packed then return nil end
  local state, owner, entry = string.match(packed, PACKED)
  local ticket = unpack_entry(entry)
  ticket.state, ticket.owner = state, owner
  return ticket
end

local function save(ticket)
  local packed = ticket.state .. ticket.owner .. NUL .. pack_entry(ticket)
  if redis.call('HSET', TICKETS, ticket.id, packed) == 1 then
    redis.call('ZADD', OWNED, 0, ticket.owner .. NUL .. ticket.id)
  end
end

local function waiting() return redis.call('ZCARD', WAITING) end

local function waiting_of(tenant, classes)
  local count = 0
  for class = 0, classes - 1 do
    local prefix = class .. NUL .. tenant
    count = count + redis.call('ZLEXCOUNT', WAITING, '[' .. prefix .. NUL, '(' .. prefix .. AFTER_NUL)
  end
  return count
end

local function waits(prefix) return first_with(WAITING, prefix) ~= nil end

-- The tenants of a class take turns, and the users of a tenant in a class.
local function tenants_round(class) return 't' .. class end
local function users_round(class, tenant) return 'u' .. class .. NUL .. tenant end

local function join(ticket)
  ticket.state, ticket.number = IN_LINE, digits(redis.call('HINCRBY', POOL, 'entered', 1))
  turns_join(tenants_round(ticket.class), ticket.tenant, ticket.number)
  turns_join(users_round(ticket.class, ticket.tenant), ticket.user, ticket.number)
  redis.call('ZADD', WAITING, 0, pack_entry(ticket))
  save(ticket)
end

-- Tell whether the ticket's user and its tenant have others that wait.
local function others_of(ticket)
  local of_tenant = ticket.class .. NUL .. ticket.tenant
  local has_user = waits(of_tenant .. NUL .. ticket.user)
  return has_user, has_user or waits(of_tenant)
end

-- Take a ticket out of line, uncharged.
local function quit(ticket)
  redis.call('ZREM', WAITING, pack_entry(ticket))
  local round = users_round(ticket.class, ticket.tenant)
  local has_user, has_tenant = others_of(ticket)
  if not has_user then turns_leave(round, ticket.user) end
  if has_tenant then return end
  turns_end(round)
  turns_leave(tenants_round(ticket.class), ticket.tenant)
  if not waits(ticket.class) then redis.call('HDEL', POOL, 'owed:' .. ticket.class) end
end

local function charge_more(class, tenant, user, amount)
  turns_settle(tenants_round(class), tenant, amount)
  turns_settle(users_round(class, tenant), user, amount)
end

-- Which classes have tickets in line, and how far behind their reserves they are, by class.
local function classes_standing(reserves)
  local is_waiting, fields = {}, {}
  for class = 0, #reserves - 1 do
    is_waiting[class] = waits(class)
    table.insert(fields, 'owed:' .. class)
  end
  local owed = redis.call('HMGET', POOL, unpack(fields))
  for i = 1, #reserves do owed[i] = tonumber(owed[i] or 0) end
  return is_waiting, owed
end

local function class_in_turn(is_waiting, owed)
  local first
  for class = 0, #owed - 1 do
    if is_waiting[class] then
      if owed[class + 1] > 0 then return class end
      first = first or class
    end
  end
  return first
end

-- Keep the books on reserves: *served*, which waited, was granted *work*; those that still wait fall behind.
local function note_share(served, work, reserves, is_waiting, owed)
  local is_most_urgent, words = true, {}
  for class = 0, #reserves - 1 do
    local more = reserves[class + 1] * work - (class == served and 100 * work or 0)
    local is_even = not is_waiting[class] or (class == served and is_most_urgent)
    table.insert(words, 'owed:' .. class)
    table.insert(words, is_even and 0 or string.format('%.0f', owed[class + 1] + more))
    is_most_urgent = is_most_urgent and not is_waiting[class]
  end
  redis.call('HSET', POOL, unpack(words))
end

-- Take the ticket whose turn it is out of line and charge for it; nothing if nobody waits.
local function next_ticket(reserves)
  local is_waiting, owed = classes_standing(reserves)
  local class = class_in_turn(is_waiting, owed)
  if not class then return nil end
  local tenants = tenants_round(class)
  local tenant = turns_first(tenants)
  local users = users_round(class, tenant)
  local user = turns_first(users)
  local entry = first_with(WAITING, table.concat({class, tenant, user}, NUL))
  local ticket = load(unpack_entry(entry).id)
  redis.call('ZREM', WAITING, entry)
  local has_user, has_tenant = others_of(ticket)
  local amount = tonumber(ticket.charge)
  turns_charge(users, user, amount, not has_user)
  turns_charge(tenants, tenant, amount, not has_tenant)
  if not has_tenant then turns_end(users) end
  is_waiting[class] = has_tenant or waits(class)
  note_share(class, tonumber(ticket.work), reserves, is_waiting, owed)
  return ticket
end
