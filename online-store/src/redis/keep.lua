-- Keeps each row where it is greater, byte by byte, than what its field holds. KEYS are the entities, ARGV a field and a row for each.
-- Strings are not compared with `<`: Lua orders them by the locale of the server.
local function greater(a, b)
  local n = math.min(#a, #b)
  local i = 1
  if n >= 8 then
    -- Most rows differ in their event time.
    local a1, a2 = struct.unpack('>I4I4', a)
    local b1, b2 = struct.unpack('>I4I4', b)
    if a1 ~= b1 then return a1 > b1 end
    if a2 ~= b2 then return a2 > b2 end
    i = 9
  end
  while i + 1023 <= n and string.sub(a, i, i + 1023) == string.sub(b, i, i + 1023) do
    i = i + 1024
  end
  while i <= n do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
    i = i + 1
  end
  return #a > #b
end
for i = 1, #KEYS do
  local field, row = ARGV[2 * i - 1], ARGV[2 * i]
  local held = redis.call('HGET', KEYS[i], field)
  if not held or (held ~= row and greater(row, held)) then
    redis.call('HSET', KEYS[i], field, row)
  end
end
return redis.status_reply('OK')
