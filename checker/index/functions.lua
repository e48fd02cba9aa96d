#!lua name=xianxiao_2
-- The exact index's own commands. Each touches one key, so a cluster needs no special case, and each is atomic.
--
-- A measure's hash   a: sequence of its addition (8 bytes, big-endian) and the 16-byte keys it names, packed
--                    c: court NUL case number        d: keys it named once and names no longer, packed
--                    r: sequence of its removal, state (1 byte), reason
--                    x + 8 bytes: an exemption under its sequence: 26-byte window, then the keys it is for, packed
-- A lookup key's hash: a record per measure, an entry per exemption (its field holds a NUL); both begin with the
-- sequence (8 bytes, big-endian), a record's ninth byte is its state (1 active, 2 shielded, 3 revoked).
--
-- Sequences are compared as numbers: Lua compares strings by locale. They stay below 2^53.
-- What is known already is written once more, so that a replay's WAITAOF waits for it too.
-- When a function changes, the version in the library's and in every function's name changes with it.

local APPLIED, UNCHANGED, SUPERSEDED = 1, 2, 3
local KEY, WINDOW, ACTIVE, RECORD = 16, 26, 1, 34

local function number(bytes)
  return (struct.unpack('>I8', bytes))
end

local function as_set(packed)
  local set = {}
  for i = 1, #packed, KEY do
    set[string.sub(packed, i, i + KEY - 1)] = true
  end
  return set
end

-- The keys of `packed` that are, or are not, in `set`; order kept.
local function keys_where(packed, set, wanted)
  local kept = {}
  for i = 1, #packed, KEY do
    local key = string.sub(packed, i, i + KEY - 1)
    if (set[key] == true) == wanted then
      kept[#kept + 1] = key
    end
  end
  return table.concat(kept)
end

local function read_measure(flat)
  local m = { added = 0, removed = 0, keys = '', dropped = '', exemptions = {} }
  for i = 1, #flat, 2 do
    local field, value = flat[i], flat[i + 1]
    if field == 'a' then
      m.a, m.added, m.keys = value, number(value), string.sub(value, 9)
    elseif field == 'd' then
      m.dropped = value
    elseif field == 'r' then
      m.r, m.removed = value, number(value)
    elseif string.sub(field, 1, 1) == 'x' then
      m.exemptions[#m.exemptions + 1] = string.sub(field, 2)
      m.exemptions[#m.exemptions + 1] = value
    end
  end
  return m
end

-- sequence, packed keys, court NUL case -> APPLIED for a measure never seen, SUPERSEDED, or
-- {verdict, keys to hold the record, keys to hold a tombstone, exemption sequence, exemption, ...}
local function measure_add(keys, args)
  local sequence, named = number(args[1]), args[2]
  local flat = redis.call('HGETALL', keys[1])
  if #flat == 0 then
    redis.call('HSET', keys[1], 'a', args[1] .. named, 'c', args[3])
    return APPLIED
  end
  local m = read_measure(flat)
  if m.removed >= sequence or m.added > sequence then
    return SUPERSEDED
  end
  local verdict = UNCHANGED
  if m.added == sequence then
    redis.call('HSET', keys[1], 'a', m.a)
  else
    verdict = APPLIED
    m.dropped = keys_where(m.dropped .. m.keys, as_set(named), false)
    m.keys = named
    redis.call('HSET', keys[1], 'a', args[1] .. named, 'c', args[3], 'd', m.dropped)
  end
  local reply = { verdict, m.keys, m.dropped }
  for i = 1, #m.exemptions do
    reply[#reply + 1] = m.exemptions[i]
  end
  return reply
end

-- sequence, state (1 byte), reason -> {verdict, keys to hold a tombstone}. Also when superseded: what superseded it may
-- have been cut short before it wrote them, and this removal is about to be acknowledged.
local function measure_remove(keys, args)
  local sequence = number(args[1])
  local m = read_measure(redis.call('HGETALL', keys[1]))
  local named = m.keys .. m.dropped
  if m.added > sequence or m.removed > sequence then
    return { SUPERSEDED, named }
  end
  local verdict, value = APPLIED, args[1] .. args[2] .. args[3]
  if m.removed == sequence then
    verdict, value = UNCHANGED, m.r
  end
  redis.call('HSET', keys[1], 'r', value)
  return { verdict, named }
end

-- sequence, window, packed keys it is for (none: all) -> {verdict, keys to hold the exemption}
local function measure_exempt(keys, args)
  local field = 'x' .. args[1]
  local stored = redis.call('HGET', keys[1], field)
  local verdict, value = UNCHANGED, stored
  if not stored then
    verdict, value = APPLIED, args[2] .. args[3]
  end
  redis.call('HSET', keys[1], field, value)
  local named = string.sub(redis.call('HGET', keys[1], 'a') or '', 9) .. (redis.call('HGET', keys[1], 'd') or '')
  local subset = string.sub(value, WINDOW + 1)
  if subset ~= '' then
    named = keys_where(named, as_set(subset), true)
  end
  return { verdict, named }
end

-- field, value, ... -> how many changed. Keeps the newer; on equal sequences the more final state.
local function key_put(keys, args)
  local changed = 0
  for i = 1, #args, 2 do
    local field, given = args[i], args[i + 1]
    local stored = redis.call('HGET', keys[1], field)
    local newer, older = not stored, false
    if stored and not string.find(field, '\0', 1, true) then
      local a, b = number(given), number(stored)
      if a == b then
        a, b = string.byte(given, 9), string.byte(stored, 9)
      end
      newer, older = a > b, a < b
    end
    if newer then
      changed = changed + 1
      redis.call('HSET', keys[1], field, given)
    elseif not older then
      redis.call('HSET', keys[1], field, stored)
    end
  end
  return changed
end

-- entries to keep, packed keys, ... -> number of the last entry. Entry numbers are consecutive: a reader sees any loss.
local function journal_append(keys, args)
  local last = redis.call('XREVRANGE', keys[1], '+', '-', 'COUNT', 1)[1]
  local n = 0
  if last then
    n = tonumber(string.match(last[1], '^%d+'))
  end
  for i = 2, #args do
    n = n + 1
    redis.call('XADD', keys[1], 'MAXLEN', '~', args[1], string.format('%.0f-0', n), 'k', args[i])
  end
  return n
end

-- cursor, prefix of the lookup keys, how many to look at -> {cursor, packed lookup keys with an active record}
local function active_keys(_, args)
  local page = redis.call('SCAN', args[1], 'MATCH', args[2] .. '*', 'COUNT', args[3])
  local active = {}
  for _, key in ipairs(page[2]) do
    for _, value in ipairs(redis.call('HVALS', key)) do
      if #value >= RECORD and string.byte(value, 9) == ACTIVE then
        active[#active + 1] = string.sub(key, #args[2] + 1)
        break
      end
    end
  end
  return { page[1], table.concat(active) }
end

-- The importer's hash: token, holder, place, attempt, since, until; and the head it guards: sequence, time,
-- gap (since when), seen (behind it).
local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- holder, place, attempt, milliseconds to live, token to take over from ('' = only a free or expired lease)
-- -> {1, token}, or {0, token, holder, place, since} of the present holder
local function importer_take(keys, args)
  local now = now_ms()
  local s = redis.call('HMGET', keys[1], 'token', 'holder', 'place', 'attempt', 'since', 'until')
  local held = s[6] and tonumber(s[6]) > now
  if held and s[4] == args[3] then
    return { 1, s[1] } -- our own call, sent again after its answer was lost
  end
  if held and s[1] ~= args[5] then
    return { 0, s[1], s[2], s[3], s[5] }
  end
  local token = string.format('%.0f', tonumber(s[1] or '0') + 1)
  redis.call('HSET', keys[1], 'token', token, 'holder', args[1], 'place', args[2], 'attempt', args[3],
    'since', string.format('%.0f', now), 'until', string.format('%.0f', now + args[4]))
  return { 1, token }
end

local function holds(key, token)
  local s = redis.call('HMGET', key, 'token', 'until')
  return s[1] == token and s[2] ~= '0'
end

-- token, milliseconds to live -> 1, or 0 when the lease went to another
local function importer_renew(keys, args)
  if not holds(keys[1], args[1]) then
    return 0
  end
  redis.call('HSET', keys[1], 'until', string.format('%.0f', now_ms() + args[2]))
  return 1
end

-- token -> 1, or 0 when the lease went to another
local function importer_release(keys, args)
  if not holds(keys[1], args[1]) then
    return 0
  end
  redis.call('HSET', keys[1], 'until', '0')
  return 1
end

-- token, feed sequence, feed time, gap, seen -> 1, or 0 when the lease went to another. The head never goes back; the gap
-- is what the importer says, who knows what was stored.
local function importer_advance(keys, args)
  if not holds(keys[1], args[1]) then
    return 0
  end
  local stored = tonumber(redis.call('HGET', keys[1], 'sequence') or '0')
  if tonumber(args[2]) >= stored then
    redis.call('HSET', keys[1], 'sequence', args[2], 'time', args[3])
  end
  redis.call('HSET', keys[1], 'gap', args[4], 'seen', args[5])
  return 1
end

-- number of the generation being loaded -> 1 when it serves now, 0 when it was not being loaded
local function switch(keys, args)
  local s = redis.call('HMGET', keys[1], 'serving', 'loading')
  if s[1] == args[1] then
    return 1 -- our own call, sent again after its answer was lost
  end
  if s[2] ~= args[1] then
    return 0
  end
  redis.call('HSET', keys[1], 'serving', s[2], 'retiring', s[1])
  redis.call('HDEL', keys[1], 'loading')
  return 1
end

-- -> generations of the workers that reported lately; forgets the others
local function workers(keys, _)
  local flat, now, reading = redis.call('HGETALL', keys[1]), now_ms(), {}
  for i = 1, #flat, 2 do
    local generation, worth_until = string.match(flat[i + 1], '^(%d+) (%d+)$')
    if tonumber(worth_until) > now then
      reading[#reading + 1] = generation
    else
      redis.call('HDEL', keys[1], flat[i])
    end
  end
  return reading
end

-- worker, generation it reads, milliseconds this is worth. A new one takes the place of those that ended unheard.
local function worker_report(keys, args)
  if redis.call('HSET', keys[1], args[1], args[2] .. ' ' .. string.format('%.0f', now_ms() + args[3])) == 1 then
    workers(keys, args)
  end
  return 1
end

-- field, value, ... -> 1 when the hash did not exist and was written, else 0
local function create(keys, args)
  if redis.call('EXISTS', keys[1]) == 1 then
    return 0
  end
  redis.call('HSET', keys[1], unpack(args))
  return 1
end

-- field, value, ... -> the hash holds these and nothing else
local function replace(keys, args)
  redis.call('DEL', keys[1])
  if #args > 0 then
    redis.call('HSET', keys[1], unpack(args))
  end
  return #args / 2
end

-- What is published. Fields: centre, latest (epoch SPACE token), manifest:E, signature:E, rulebook:E, about:E of the kept
-- epochs; chunks:CENTRE:E, where the chunks of an epoch are; writing:TOKEN, chunks that belong to no epoch yet.

-- centre expected, latest expected, latest to be, field to remove, field, value, ... -> 1 when it is the latest now
local function publish(keys, args)
  local s = redis.call('HMGET', keys[1], 'centre', 'latest')
  if s[2] == args[3] then
    return 1 -- our own call, sent again after its answer was lost
  end
  if s[1] ~= args[1] or (s[2] or '') ~= args[2] then
    return 0
  end
  redis.call('HSET', keys[1], 'latest', args[3], unpack(args, 5))
  redis.call('HDEL', keys[1], args[4])
  return 1
end

-- field, value -> the value that stands there now: the one given only if there was none
local function keep(keys, args)
  redis.call('HSETNX', keys[1], args[1], args[2])
  return redis.call('HGET', keys[1], args[1])
end

-- token, chunks: notes chunks about to be written
local function writing(keys, args)
  return redis.call('HSET', keys[1], 'writing:' .. args[1], args[2] .. ' ' .. string.format('%.0f', now_ms()))
end

-- milliseconds -> token, chunks, ... of those noted so long ago that whoever wrote them is gone
local function abandoned(keys, args)
  local flat, now, found = redis.call('HGETALL', keys[1]), now_ms(), {}
  for i = 1, #flat, 2 do
    local token = string.match(flat[i], '^writing:(.*)$')
    if token then
      local chunks, since = string.match(flat[i + 1], '^(%d+) (%d+)$')
      if now - since > tonumber(args[1]) then
        found[#found + 1] = token
        found[#found + 1] = chunks
      end
    end
  end
  return found
end

-- builder, milliseconds (0: lets go) -> 1 when it may build
local function claim(keys, args)
  local s, now = redis.call('HMGET', keys[1], 'builder', 'builds_until'), now_ms()
  if s[1] and s[1] ~= args[1] and tonumber(s[2]) > now then
    return 0
  end
  redis.call('HSET', keys[1], 'builder', args[1], 'builds_until', string.format('%.0f', now + args[2]))
  return 1
end

-- edge, status
local function edge_report(keys, args)
  return redis.call('HSET', keys[1], args[1], struct.pack('>I8', now_ms()) .. args[2])
end

-- milliseconds -> reports (time in 8 bytes, status) that are younger; forgets the others
local function edges(keys, args)
  local flat, now, young = redis.call('HGETALL', keys[1]), now_ms(), {}
  for i = 1, #flat, 2 do
    if now - number(flat[i + 1]) <= tonumber(args[1]) then
      young[#young + 1] = flat[i + 1]
    else
      redis.call('HDEL', keys[1], flat[i])
    end
  end
  return young
end

redis.register_function('xianxiao_2_measure_add', measure_add)
redis.register_function('xianxiao_2_measure_remove', measure_remove)
redis.register_function('xianxiao_2_measure_exempt', measure_exempt)
redis.register_function('xianxiao_2_key_put', key_put)
redis.register_function('xianxiao_2_journal_append', journal_append)
redis.register_function('xianxiao_2_importer_take', importer_take)
redis.register_function('xianxiao_2_importer_renew', importer_renew)
redis.register_function('xianxiao_2_importer_release', importer_release)
redis.register_function('xianxiao_2_importer_advance', importer_advance)
redis.register_function('xianxiao_2_switch', switch)
redis.register_function('xianxiao_2_worker_report', worker_report)
redis.register_function('xianxiao_2_workers', workers)
redis.register_function('xianxiao_2_create', create)
redis.register_function('xianxiao_2_replace', replace)
redis.register_function('xianxiao_2_publish', publish)
redis.register_function('xianxiao_2_keep', keep)
redis.register_function('xianxiao_2_writing', writing)
redis.register_function('xianxiao_2_abandoned', abandoned)
redis.register_function('xianxiao_2_claim', claim)
redis.register_function('xianxiao_2_edge_report', edge_report)
redis.register_function('xianxiao_2_edges', edges)
redis.register_function({
  function_name = 'xianxiao_2_active_keys',
  callback = active_keys,
  flags = { 'no-writes', 'allow-cross-slot-keys' },
})
