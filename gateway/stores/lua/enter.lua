-- Put tickets in line, or refuse them where it is full. Idempotent by ticket id: one that is known is only looked up.
-- ARGV  4… the tickets.
if is_stale() then return stale() end
for i = 4, #ARGV, 5 do
  local id, ticket, waiting_max = read_ticket(i)
  local held = load(id)
  if held then
    if not held.number then table.insert(mine, id) end
  elseif waiting_max >= 0 and waiting() >= waiting_max and in_flight() >= slots() then
    table.insert(refused, id)
  else
    join(id, ticket)
    grant()
  end
end
return answer()
