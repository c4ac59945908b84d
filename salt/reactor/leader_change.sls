{#- The leader of a cluster changed: every member comes to the role that etcd gives it. The event is a hint, which any
    accepted minion could forge: leaderl reads etcd again, and an epoch that is over changes nothing. #}
{%- set members = data.get('members') or [] %}
{%- set epoch = data.get('epoch') or 0 %}
{%- if members and epoch is number and data.get('leader') %}
chefha_converge:
  local.chefha.converge:
    - tgt: {{ members | tojson }}
    - tgt_type: list
    - kwarg:
        epoch: {{ epoch | int }}
        timeout: 30
{%- endif %}
