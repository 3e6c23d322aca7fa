-- What follows from the ends of tasks for their groups and their children: core/groups.py in Lua. Changes are noted
-- while rows are written, and followed at the end of the script.

-- The last argument: '' or the webhooks that tell of children which end here, as JSON: see webhooks.py.
local WEBHOOKS = table.remove(ARGV)

local known_group_tools
local function group_tools()
  if known_group_tools then return known_group_tools end
  local MOST = 1000  -- children looked at in one script; the others are noted in groups:following
  local FOLLOWING = 'groups:following'
  local WORDS = {failed = 'failed', cancelled = 'was cancelled', expired = 'expired'}

  -- Ended parents whose children are to be looked at; changes of counts by group; the latest instant of a change;
  -- children that were brought back, with the number of the last parent that was noted before.
  local parents, tallies, changed_at, back, noted = {}, {}, 0, {}, 0
  -- What has followed: see Followed in backends/groups.py.
  local ended_children, pushed, ended_groups, counted = {}, {}, {}, {}

  -- Read a group: its counts, 1 if it was cancelled, ended_at or '-', created_at in twenty digits, and JSON.
  local function parse_group(text)
    local total, remaining, failed, cancelled, needed_by, generation, cancel, ended, created, json = match(text,
      '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([01]) (%S+) (%d+) (.*)')
    return {
      total = tonumber(total), remaining = tonumber(remaining), failed = tonumber(failed),
      cancelled = tonumber(cancelled), needed_by = tonumber(needed_by), generation = tonumber(generation),
      cancel = cancel == '1', ended = ended ~= '-' and ended, created = created, json = json,
    }
  end

  -- The id of the group that a group is in, nil if it is in none.
  local function parent_of(group) return cjson.decode(group.json).parent_id end

  -- Note the state of a group, and where it is found if that has changed.
  local function save_group(id, group, moved)
    if moved then
      local live, stamp = not group.ended, group.created .. id
      set_score('groups:live', stamp, live and '0')
      set_score('groups:ended', stamp, not live and '0')
      if not parent_of(group) then set_score('groups:done', id, group.needed_by == 0 and group.ended) end
      set_score('groups:cancelling', id, live and group.cancel and '0')
    end
    set_field('groups', id, string.format('%d %d %d %d %d %d %d %s %s %s', group.total, group.remaining, group.failed,
      group.cancelled, group.needed_by, group.generation, group.cancel and 1 or 0, group.ended or '-', group.created,
      group.json))
  end

  local function read_group(id)
    local text = get_field('groups', id)
    return text and parse_group(text) or nil
  end

  -- Whether a member that has ended with this status is kept: core.groups.stays. `before` is in epoch seconds or nil.
  local outermost = {}  -- by the id of a group; false for a group that is gone
  local function member_stays(id, status, before)
    if outermost[id] == nil then
      local group, above = read_group(id), nil
      while group do
        above = group
        local parent = parent_of(group)
        group = parent and read_group(parent)
      end
      outermost[id] = above or false
    end
    local top = outermost[id]
    return top and (not top.ended or before and math.floor(top.ended / 1000000) >= before
      or top.needed_by > 0 and status ~= 'failed')
  end

  local function status_of(group)
    if not group.ended then return 'running' end
    if group.failed > 0 then return 'failed' end
    return (group.cancelled > 0 or group.cancel) and 'cancelled' or 'completed'
  end

  local function tally_of(group)
    local tally = tallies[group]
    if not tally then
      tally = {ended = 0, failed = 0, cancelled = 0, needed_by = 0}
      tallies[group] = tally
    end
    return tally
  end

  -- Note that one more task keeps the group of this place, or one less (-1): core.groups.keeps.
  local function add_needed(place, by)
    local group = place.group or place.source
    if not group then return end
    local tally = tally_of(group)
    tally.needed_by = tally.needed_by + by
  end

  local function add_tally(group, status, by)
    local tally = tally_of(group)
    tally.ended = tally.ended + by
    if status == 'failed' then
      tally.failed = tally.failed + by
    elseif status ~= 'completed' then
      tally.cancelled = tally.cancelled + by
    end
  end

  -- Note that parents have ended: children is a list of ids and rules.
  local function add_parent(id, kind, status, children, stored)
    noted = noted + 1
    parents[#parents + 1] = {
      id = id, type = kind, status = status, children = children, at = 1, number = noted, stored = stored,
    }
  end

  -- Note that a task has ended with this status.
  local function note_end(id, place, status, at)
    changed_at = math.max(changed_at, at or 0)
    if place.group then add_tally(place.group, status, 1) end
    if place.source then add_needed(place, -1) end
    if status == 'failed' then add_needed(place, 1) end
    if not place.children then return end
    local ok, names = pcall(cjson.decode, place.names)
    add_parent(id, ok and tostring(names[1]) or '', status, place.children)
  end

  -- Read for how many parents a pending row waits, nil if it waits for none, and its due_at; then the place in its
  -- state behind that number. Its flow is not read: it has as many names as the row has parents.
  local function read_waits(row)
    if not row or row.status ~= 'pending' or not row.flow or row.run_at ~= PARKED then return nil end
    local due, waits, at = match(row.names, '^(%S+) w(%d+)() ')
    return tonumber(waits), due, at and row.json - #row.names + at - 1
  end

  -- Write for how many parents a row waits: four digits, of which the last is before `behind` (see tail_of).
  local function write_waits(id, waits, behind)
    local state = states[id]
    set_state(id, sub(state, 1, behind - 5) .. string.format('%04d', waits) .. sub(state, behind))
  end

  -- Whether a child waits for a parent with this status: core.groups.holds_up. Its rule is nil where the parent does
  -- not know of the child.
  local function holds_up(status, rule)
    return rule and (LIVE[status] or status ~= 'completed' and rule ~= 'run')
  end

  -- How many of the parents with these ids, whose states are loaded, hold a child up: core.groups.live_parents.
  local function live_parents(ids, child)
    local live = 0
    for _, id in ipairs(ids) do
      local row = states[id] and parse(states[id])
      if row and row.flow and row.status ~= 'completed' then
        local place = gated.place_of(row)
        if not place.rules then
          place.rules = {}
          for _, edge in ipairs(place.children or {}) do place.rules[edge[1]] = edge[2] end
        end
        if holds_up(row.status, place.rules[child]) then live = live + 1 end
      end
    end
    return live
  end

  -- Note that a task which ended with this status is brought back. Its children that know of the end, and wait for
  -- others, wait for it again, unless they wait for it already.
  local function note_return(id, place, status, at)
    changed_at = math.max(changed_at, at or 0)
    if place.group then add_tally(place.group, status, -1) end
    if place.source then add_needed(place, 1) end
    if status == 'failed' then add_needed(place, -1) end
    if not place.children then return end
    local unaware = {}
    local packed = get_field(FOLLOWING, id)
    if packed then
      for _, edge in ipairs(cmsgpack.unpack(packed)[3]) do unaware[edge[1]] = true end
      set_field(FOLLOWING, id, false)
    end
    local ids = {}
    for _, edge in ipairs(place.children) do
      if not unaware[edge[1]] and not holds_up(status, edge[2]) then ids[#ids + 1] = edge[1] end
    end
    load_states(ids)
    for _, child in ipairs(ids) do
      local waits, _, behind = read_waits(parse(states[child]))
      if waits then write_waits(child, waits + 1, behind) end
    end
  end

  -- What an ended parent was still to tell this child is known to it now.
  local function forget(ids, child)
    if call('EXISTS', root .. FOLLOWING) == 0 then return end
    for _, id in ipairs(ids) do
      local packed = get_field(FOLLOWING, id)
      if packed then
        local kind, status, children, at = unpack(cmsgpack.unpack(packed))
        local kept = {}
        for _, edge in ipairs(children) do
          if edge[1] ~= child then kept[#kept + 1] = edge end
        end
        set_field(FOLLOWING, id, kept[1] and cmsgpack.pack({kind, status, kept, at}))
      end
    end
  end

  -- Note that a task which ended with this status, but did not complete, is deleted. A child that waits for it was
  -- brought back alone.
  local function note_deleted(id, place, status, at)
    changed_at = math.max(changed_at, at)
    if status == 'failed' then add_needed(place, -1) end
    local ok, names = pcall(cjson.decode, place.names)
    local waiting = {}
    for _, edge in ipairs(place.children or {}) do
      if edge[2] ~= 'run' then waiting[#waiting + 1] = edge end
    end
    if waiting[1] then add_parent(id, ok and tostring(names[1]) or '', 'cancelled', waiting) end
  end

  -- Return the state of a child that is brought back: it waits for those of its parents that hold it up.
  local function wait_again(id, state, row)
    local place = gated.place_of(row)
    if not place.parents then return state end
    local ids = {}
    for i, parent in ipairs(place.parents) do ids[i] = parent[1] end
    load_states(ids)
    local live = live_parents(ids, id)
    back[id] = noted
    forget(ids, id)
    if live == 0 then return state end
    local due = row.due == '-' and row.run_at or row.due
    return gated.with_names(row, state, PARKED, due .. ' ' .. gated.tail_of(nil, place.flow, place.names, live))
  end

  local function rewrite(id, row, state, now)
    local after = parse(state)
    unindex(id, row)
    set_state(id, state)
    index(id, after)
    gated.touch_changed(row, after, now)
  end

  -- The id that core.groups.derived_id returns: a UUID of version 5.
  local function derived_id(name)
    local space = string.gsub('5b5b5b0c6d3c5b0e9a3e0d6b6f3e9c41', '%x%x', function(hex)
      return string.char(tonumber(hex, 16))
    end)
    local hex = redis.sha1hex(space .. name)
    return sub(hex, 1, 8) .. '-' .. sub(hex, 9, 12) .. '-5' .. sub(hex, 14, 16) .. '-'
      .. string.format('%x', 8 + tonumber(sub(hex, 17, 17), 16) % 4) .. sub(hex, 18, 20) .. '-' .. sub(hex, 21, 32)
  end

  -- An instant in microseconds as JSON: core.instants.to_iso.
  local function iso(instant)
    local seconds = math.floor(instant / 1000000)
    local rest, days = instant - seconds * 1000000, math.floor(seconds / 86400)
    -- The civil date of a number of days, counted in eras of 400 years from a March.
    local shifted = days + 719468
    local era = math.floor(shifted / 146097)
    local of_era = shifted - era * 146097
    local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
      - math.floor(of_era / 146096)) / 365)
    local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
    local m = math.floor((5 * of_year + 2) / 153)
    local day, month = of_year - math.floor((153 * m + 2) / 5) + 1, m < 10 and m + 3 or m - 9
    return string.format('"%04d-%02d-%02dT%02d:%02d:%02d%sZ"', year + era * 400 + (month <= 2 and 1 or 0), month, day,
      math.floor(seconds / 3600) % 24, math.floor(seconds / 60) % 60, seconds % 60,
      rest > 0 and string.format('.%06d', rest) or '')
  end

  -- Push the messages about a child that has ended: core.webhooks.messages.
  local known_webhooks
  local function tell_webhooks(id, row, status, reason, now)
    known_webhooks = known_webhooks or cjson.decode(WEBHOOKS)
    local names, queue = names_of(row), queue_of(row.lane)
    for _, silent in ipairs(known_webhooks[1]) do
      if names.type == silent then return end
    end
    local data
    for _, hook in ipairs(known_webhooks[2]) do
      if hook.on[status] and (hook.types == cjson.null or hook.types[names.type or ''])
        and (hook.queues == cjson.null or hook.queues[queue]) then
        local instant = string.format('%.0f', now)
        if not data then
          local ok, state = pcall(cjson.decode, '{' .. sub(states[id], row.json + 1) .. '}')
          if not ok then state = {} end
          local created = tonumber(match(call('HGET', root .. 'body', id) or '', '"created_at":(%d+)'))
          local function seconds(value) return type(value) == 'number' and iso(value * 1000000) or 'null' end
          data = '{"task_id":' .. cjson.encode(id) .. ',"type":' .. cjson.encode(names.type or '')
            .. ',"queue":' .. cjson.encode(queue) .. ',"status":"' .. status .. '"'
            .. ',"error":' .. cjson.encode(match(reason, '^[^\n]*'))
            .. string.format(',"retry_count":%d,"max_retries":%d', state.retry_count or 0, state.max_retries or 3)
            .. ',"scheduler_task_id":' .. (names.schedule and cjson.encode(names.schedule) or 'null')
            .. ',"created_at":' .. seconds(created) .. ',"started_at":' .. seconds(state.started_at)
            .. ',"completed_at":' .. seconds(math.floor(now / 1000000)) .. '}'
        end
        local to = hook.queue == cjson.null and queue or hook.queue
        local lane, place = '0:' .. to, instant .. hook.names
        local message = derived_id(id .. '/' .. hook.name .. '/' .. instant)
        local body = '{"task_id":"' .. message .. sub(hook.body, #'{"task_id":"' + 1) .. ',"body":{"type":"task.'
          .. status .. '","timestamp":' .. iso(now) .. ',"data":' .. data .. '}}'
        body = string.gsub(body, '"created_at":0', string.format('"created_at":%.0f', math.floor(now / 1000000)), 1)
        local seq = now + #pushed  -- no two have the same: they pass their gate in this order
        insert(message, body, 'pending 0 0 - - 2 ' .. string.format('%020.0f', seq) .. ' ' .. PARKED .. ' - '
          .. #lane .. ' ' .. #place .. ' ' .. lane .. place .. ',"seq":' .. string.format('%.0f', seq)
          .. ',"queue":' .. cjson.encode(to) .. ',"max_retries":' .. string.format('%d', hook.max_retries))
        pushed[#pushed + 1] = message
      end
    end
  end

  -- Do what the end of a parent means for one child.
  local function tell(parent, id, rule, now)
    local row = parse(states[id])
    local waits, due, behind = read_waits(row)
    if not waits or back[id] and parent.number <= back[id] then return end
    if parent.status == 'completed' or rule == 'run' then
      if waits > 1 then
        write_waits(id, waits - 1, behind)
        return
      end
      local place = gated.place_of(row)
      local gate = place.keys[1]
      local names = (gate and due or '-') .. ' ' .. gated.tail_of(gate, place.flow, place.names)
      rewrite(id, row, gated.with_names(row, states[id], gate and PARKED or due, names), now)
      return
    end
    local status = rule == 'cancel' and 'cancelled' or 'failed'
    local instant, completed = string.format('%.0f', now), string.format('%.0f', math.floor(now / 1000000))
    local reason = 'not started: task ' .. parent.id .. ' (' .. parent.type .. '), for which it waits, '
      .. (WORDS[parent.status] or parent.status)
    local after = parse(states[id])
    after.status, after.completed = status, completed
    local state = gated.with_names(after, states[id], row.run_at, row.names)
      .. ',"completed_at":' .. completed .. ',"ended_at":' .. instant .. ',"error_message":' .. cjson.encode(reason)
    rewrite(id, row, state, now)
    ended_children[#ended_children + 1] = id
    if WEBHOOKS ~= '' then tell_webhooks(id, parse(state), status, reason, now) end
    note_end(id, gated.place_of(row), status, now)
  end

  -- Push the task that an ended group pushes, if there is one, and count it.
  local function push_callback(id, group, now)
    if group.cancel then return end
    local failed = group.failed > 0 or group.cancelled > 0
    local packed = call('HGET', root .. 'groups:then', id)
    local made = packed and cjson.decode(packed)
    local body, state = made and made[failed and 4 or 1], made and made[failed and 5 or 2]
    if not body or body == '' then return end
    local row = parse(state)
    local place = gated.place_of(row)
    local first, gate = tonumber(row.due) or tonumber(row.run_at), place.keys[1]
    local at = now + math.max(0, first - tonumber(row.seq))  -- with the delay that its call asked for
    local due = string.format('%.0f', at)
    local task_id = derived_id(id .. '/' .. (failed and 'on_failure' or 'then') .. '/' .. group.generation)
    local json = sub(state, row.json)
    state = sub(state, 1, row.json - 1)
    row.seq = string.format('%020.0f', now)
    if row.expires ~= '-' then row.expires = string.format('%.0f', at + tonumber(row.expires) - first) end
    state = gated.with_names(row, state, gate and PARKED or due,
      (gate and due or '-') .. ' ' .. gated.tail_of(gate, place.flow, place.names)) .. json
      .. ',"seq":' .. string.format('%.0f', now) .. (row.expires ~= '-' and ',"expires_at":' .. row.expires or '')
    -- It is made without an id and without the time of its creation.
    body = '{"task_id":' .. cjson.encode(task_id) .. sub(body, #'{"task_id":""' + 1)
    body = string.gsub(body, '"created_at":0', string.format('"created_at":%.0f', math.floor(now / 1000000)), 1)
    insert(task_id, body, state)
    pushed[#pushed + 1] = task_id
    group.needed_by = group.needed_by + 1
  end

  -- Count what was noted in the groups, and in those that they are members of.
  local function count_tallies(now)
    while next(tallies) do
      local changes = tallies
      tallies = {}
      for id, tally in pairs(changes) do
        local group = read_group(id)
        if tally.ended ~= 0 or tally.failed ~= 0 or tally.cancelled ~= 0 then counted[#counted + 1] = id end
        if group then
          local before, was, needed_by = status_of(group), group.ended, group.needed_by
          group.needed_by = math.max(0, needed_by + tally.needed_by)
          group.remaining = math.max(0, group.remaining - tally.ended)
          group.failed = math.max(0, group.failed + tally.failed)
          group.cancelled = math.max(0, group.cancelled + tally.cancelled)
          if group.remaining == 0 then
            group.ended = was or string.format('%.0f', now)
          elseif was then
            group.generation, group.cancel, group.ended = group.generation + 1, false, false
          end
          local turned = (was and true) ~= (group.ended and true)
          if turned and group.ended then
            ended_groups[#ended_groups + 1] = id
            push_callback(id, group, now)
          end
          local moved = turned or group.needed_by ~= needed_by
          save_group(id, group, moved)
          local parent = moved and parent_of(group)
          if parent then
            local above = tally_of(parent)
            above.needed_by = above.needed_by + group.needed_by - needed_by
            if turned then add_tally(parent, group.ended and status_of(group) or before, group.ended and 1 or -1) end
          end
        end
      end
    end
  end

  -- Do what follows from all that was noted, and write it. Return what has followed, and 1 if there are children that
  -- do not know of it yet.
  local function follow()
    if changed_at == 0 then
      local time = call('TIME')
      changed_at = time[1] * 1000000 + time[2]
    end
    local now, left, head = changed_at, MOST, 1
    while parents[head] and left > 0 do
      local parent, ids = parents[head], {}
      local last = math.min(#parent.children, parent.at + left - 1)
      for i = parent.at, last do ids[#ids + 1] = parent.children[i][1] end
      load_states(ids)
      for i, id in ipairs(ids) do tell(parent, id, parent.children[parent.at + i - 1][2], now) end
      parent.at, left = last + 1, left - #ids
      if parent.at > #parent.children then
        if parent.stored then set_field(FOLLOWING, parent.id, false) end
        head = head + 1
      end
    end
    local more = parents[head] and 1 or 0
    for i = head, #parents do
      local parent, kept = parents[i], {}
      for n = parent.at, #parent.children do kept[#kept + 1] = parent.children[n] end
      set_field(FOLLOWING, parent.id, cmsgpack.pack({parent.type, parent.status, kept, string.format('%.0f', now)}))
    end
    count_tallies(now)
    admission.declare(true)
    flush()
    return {ended_children, pushed, ended_groups, counted, more}
  end

  known_group_tools = {
    parse_group = parse_group, save_group = save_group, read_group = read_group, add_tally = add_tally,
    add_parent = add_parent, note_end = note_end, note_return = note_return, wait_again = wait_again, follow = follow,
    note_deleted = note_deleted, live_parents = live_parents, member_stays = member_stays,
    set_now = function(now) changed_at = math.max(changed_at, now) end,
  }
  return known_group_tools
end

-- Note that a task in a group, or with children, has ended with this status at this instant.
function admission.note_final(id, place, status, at) group_tools().note_end(id, place, status, at) end

-- Note that such a task, which had ended with this status, but not completed, is deleted.
function admission.note_deleted(id, place, status, at) group_tools().note_deleted(id, place, status, at) end

-- Note a change of such a task between live and ended.
function admission.note_change(id, place, before, after, at)
  if LIVE[before] then
    group_tools().note_end(id, place, after, at)
  else
    group_tools().note_return(id, place, before, at)
  end
end

-- Return the state of a row that is brought back: a child waits for its parents again.
function admission.wait_again(id, state, row)
  return gated.place_of(row).parents and group_tools().wait_again(id, state, row) or state
end

-- Whether a purge leaves an ended row, since it is a member of a group that stays; `before` as for member_stays().
function admission.stays(row, before)
  local group = row.flow and gated.place_of(row).group
  return group and group_tools().member_stays(group, row.status, before)
end

-- Do what follows from what was noted; nil if nothing was. Return lists of ids and a flag: see follow().
function admission.follow() return known_group_tools and known_group_tools.follow() end
