-- Begin an epoch: make what the owner holds here equal to what it says it holds. Repairs whatever went wrong before.
-- ARGV  4 its word on the slots or '', 5 how many tickets are in flight; then those, then the ones that wait, in order.
if known_epoch() >= EPOCH then return stale() end
redis.call('HSET', EPOCHS, OWNER, EPOCH)
redis.call('DEL', wake_list(OWNER))
tell_slots(ARGV[4])
renew_and_reap()

local claimed, first_waiting = {}, 6 + 5 * tonumber(ARGV[5])
for i = 6, #ARGV, 5 do claimed[ARGV[i]] = true end
for _, id in ipairs(ids_of(OWNER)) do
  if not claimed[id] then drop(id) end
end
for i = 6, first_waiting - 1, 5 do
  local id, ticket = read_ticket(i)
  local held = load(id)
  if held and held.number then quit(id, held, held.charge) end
  save(id, held or ticket)
end
for i = first_waiting, #ARGV, 5 do enter(i) end
grant()
return answer()
