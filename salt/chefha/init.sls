{#- Back and front ends are the minions named in pillar chefha:members and chefha:frontends. A master is named in pillar
    chefha_masters (a list). -#}
{%- set members = salt['pillar.get']('chefha:members', {}) or {} %}
{%- set frontends = salt['pillar.get']('chefha:frontends', {}) or {} %}
{%- set masters = salt['pillar.get']('chefha_masters', ['master']) %}
{%- set id = grains['id'] %}
{%- if id in members or id in frontends or id in masters %}
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
