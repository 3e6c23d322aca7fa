-- Which rows hold the slots of gates. Needs base.lua.

-- Add to `gated` what reads and writes them.
local function slot_tools()
  -- By gate, as far as they were read, the ids of the rows that hold a slot, one a line; '' where these are in a set,
  -- false where there are none.
  local slot_lists, lists_changed = {}, {}

  -- Read the slots of these gates with one command.
  local function load_slots(keys)
    local missing = {}
    for i = 1, #keys do
      if slot_lists[keys[i]] == nil then missing[#missing + 1] = keys[i] end
    end
    local texts = read_fields('slots', missing)
    for i = 1, #missing do slot_lists[missing[i]] = texts[i] end
  end

  local function slot_list(key)
    if slot_lists[key] == nil then load_slots({key}) end
    return slot_lists[key]
  end

  local function lines_of(text)
    local lines = {}
    for line in string.gmatch(text or '', '[^\n]+') do lines[#lines + 1] = line end
    return lines
  end

  local function without(text, id)
    if text == id or not text then return false end
    local whole = '\n' .. text .. '\n'
    local from = find(whole, '\n' .. id .. '\n', 1, true)
    return from and sub(sub(whole, 1, from) .. sub(whole, from + #id + 2), 2, -2) or text
  end

  local function add_slots(key, ids, count)
    local text = slot_list(key)
    if text ~= '' then
      lists_changed[key] = true
      local lines, fits = lines_of(text), count <= FEW
      for i = 1, fits and count or 0 do
        text = without(text, ids[i])
        text = text and text .. '\n' .. ids[i] or ids[i]
        fits = fits and ids[i] ~= '' and not find(ids[i], '\n', 1, true)
      end
      fits = fits and #lines_of(text) <= FEW
      slot_lists[key] = fits and text or ''
      if fits then return end
      call_in_chunks('SADD', 'slots:' .. key, lines)
    end
    call_in_chunks('SADD', 'slots:' .. key, ids, count)
  end

  -- Add a row to those that hold a slot of a gate, or remove it.
  local function set_slot(key, id, add)
    local text = slot_list(key)
    if text == '' then
      set_member('slots:' .. key, id, add)
    elseif add then
      add_slots(key, {id}, 1)
    else
      slot_lists[key], lists_changed[key] = without(text, id), true
    end
  end

  -- Remove the rows that have ended from those that hold slots, and write what has changed of these.
  local function write_slots()
    local keys, texts, dropped = {}, {}, {}
    for key in pairs(gated.ended) do keys[#keys + 1] = key end
    load_slots(keys)
    for key, ids in pairs(gated.ended) do
      if slot_lists[key] == '' then
        call_in_chunks('SREM', 'slots:' .. key, type(ids) == 'table' and ids or {ids})
      elseif type(ids) == 'table' then
        for i = 1, #ids do set_slot(key, ids[i], false) end
      else
        slot_lists[key], lists_changed[key] = without(slot_lists[key], ids), true
      end
    end
    for key in pairs(lists_changed) do
      if slot_lists[key] then
        texts[#texts + 1], texts[#texts + 2] = key, slot_lists[key]
      else
        dropped[#dropped + 1] = key
      end
    end
    call_in_chunks('HDEL', 'slots', dropped)
    if texts[1] then
      texts[#texts + 1], texts[#texts + 2] = '\n', WIDE
      call_in_chunks('HSET', 'slots', texts)
    end
    gated.ended, lists_changed = {}, {}
  end

  -- How many rows hold a slot of a gate.
  function gated.count_slots(key)
    local text = slot_list(key)
    if text == '' then return call('SCARD', root .. 'slots:' .. key) end
    return text and #lines_of(text) or 0
  end

  -- The ids of rows that hold a slot of a gate: all of them, or some if there are more than so many.
  function gated.holders(key, most)
    local text = slot_list(key)
    if text ~= '' then return lines_of(text) end
    if most then return call('SRANDMEMBER', root .. 'slots:' .. key, most) end
    return call('SMEMBERS', root .. 'slots:' .. key)
  end

  gated.load_slots = load_slots
  gated.slot_list = slot_list
  gated.add_slots = add_slots
  gated.set_slot = set_slot
  gated.write_slots = write_slots
end
