-- ARGV: hint, then packed lists of changes, each as id, guard, new row, due or '', '1' if its outbox has
-- tasks, and the rows of the tasks that it fires: id, body and state of each. The guard is the beginning of the
-- row. Returns 1 or 0 for each: whether its guard held and it is written.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: index
-- include: flush
-- include: insert
-- include: schedules

local rows, held, changed, fires = {}, {}, {}, false
for n = 2, #ARGV do
  local changes, ids, missing = cmsgpack.unpack(ARGV[n]), {}, {}
  for i = 1, #changes, 6 do
    if rows[changes[i]] == nil then missing[#missing + 1] = changes[i] end
    for j = 1, #changes[i + 5], 3 do ids[#ids + 1] = changes[i + 5][j] end
  end
  for i, row in ipairs(read_fields('schedules', missing)) do rows[missing[i]] = row end
  load_states(ids)
  for i = 1, #changes, 6 do
    local id, guard = changes[i], changes[i + 1]
    local row = rows[id]
    local holds = row and sub(row, 1, #guard) == guard
    held[#held + 1] = holds and 1 or 0
    if holds then
      rows[id] = changes[i + 2]
      changed[#changed + 1] = {id, unpack(changes, i + 2, i + 4)}
      fires = fires or #changes[i + 5] > 0
      insert_list(changes[i + 5])
    end
  end
end

if fires then
  flush()  -- the tasks first: a server whose memory is full refuses them, and then nothing is changed
else
  call('DEL', root .. 'room')  -- as in when_full.lua: a schedule can be paused then
end
for _, change in ipairs(changed) do set_schedule(unpack(change)) end
flush()
if fires then publish(ARGV[1]) end
return held
