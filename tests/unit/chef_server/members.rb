fqdn "chef.example.com"
api_fqdn "chef.example.com"
use_chef_backend true
chef_backend_members ["192.0.2.11", "192.0.2.12", "192.0.2.13"]
haproxy['listen'] = '127.0.0.1'
haproxy['remote_postgresql_port'] = 5432
haproxy['remote_elasticsearch_port'] = 9200
haproxy['leaderl_healthcheck_port'] = 7331
haproxy['etcd_port'] = 7331
postgresql['external'] = true
postgresql['vip'] = '127.0.0.1'
postgresql['db_superuser'] = 'chef_pgsql'
postgresql['db_superuser_password'] = 'it\'s #{`id`} \\ "so"'
postgresql['sslmode'] = 'require'
elasticsearch['enable'] = false
opensearch['external'] = true
opensearch['external_url'] = 'http://127.0.0.1:9200'
opensearch['vip'] = '127.0.0.1'
opensearch['port'] = 9200
opscode_erchef['search_provider'] = 'opensearch'
opscode_erchef['search_auth_username'] = 'chefha'
opscode_erchef['search_auth_password'] = 'chefha'
opscode_erchef['search_queue_mode'] = 'batch'
bookshelf['storage_type'] = :sql
rabbitmq['enable'] = false
rabbitmq['management_enabled'] = false
rabbitmq['queue_length_monitor_enabled'] = false
opscode_expander['enable'] = false
dark_launch['actions'] = false
opscode_erchef['nginx_bookshelf_caching'] = :on
opscode_erchef['s3_url_expiry_window_size'] = '50%'
