{#- Back and front ends are the minions named in pillar chefha:members and chefha:frontends. A master is named in pillar
    chefha_masters (a list, or one name). Where one of these is of another kind, chefha.checked says so. -#}
{%- set tree = salt['pillar.get']('chefha', {}) %}
{%- set named = salt['pillar.get']('chefha_masters', ['master']) or [] %}
{%- set masters = [named] if named is string else named %}
{%- set members = (tree.get('members') or {}) if tree is mapping else none %}
{%- set frontends = (tree.get('frontends') or {}) if tree is mapping else none %}
{%- set id = grains['id'] %}
{%- if members is not mapping or frontends is not mapping or masters is mapping or masters is not iterable %}
include:
  - chefha.common
{%- elif id in members or id in frontends or id in masters %}
include:
  {%- if id in members %}
  - chefha.minion
  - chefha.backend
  {%- endif %}
  {%- if id in frontends %}
  - chefha.frontend
  {%- endif %}
  {%- if id in masters %}
  - chefha.master
  {%- endif %}
{%- else %}
chefha_nothing_to_do:
  test.configurable_test_state:
    - changes: False
    - result: False
    - comment: >-
        {{ id }} is neither in pillar chefha:members or chefha:frontends nor in chefha_masters, so there is nothing to lay
        out here: add it to one of them, or do not target it
{%- endif %}
